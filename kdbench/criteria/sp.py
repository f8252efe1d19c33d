"""Similarity-preserving distillation: Tung and Mori 2019."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria._features import FeatureCriterion, full_precision, paired, unit


def similarities(features: Tensor) -> Tensor:
    r"""Gram matrix of the batch with rows of length one, :math:`G_i = (FF^\top)_i / \lVert (FF^\top)_i \rVert_2`.

    Args:
        features: `(B, ...)`; flattened to :math:`F`, `(B, D)`.

    Returns:
        `(B, B)`, in [-1, 1].
    """
    flat = features.flatten(1)
    return unit(flat @ flat.T)


@full_precision
def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Distance of the two Gram matrices, :math:`\tfrac{1}{B^2} \lVert G^S - G^T \rVert_F^2`.

    Args:
        student: `(B, ...)`.
        teacher: `(B, ...)`, of any other shape.

    Returns:
        Scalar, dimensionless, in :math:`[0, 4/B]`: rows are normalised before the division by :math:`B^2`.
    """
    return F.mse_loss(similarities(student), similarities(teacher))


class SP(FeatureCriterion):
    r"""Samples that are alike to the teacher are alike to the student; shapes need not agree.

    .. math:: \tfrac{1}{B^2} \lVert G^S - G^T \rVert_F^2, \quad
        G_i = (FF^\top)_i / \lVert (FF^\top)_i \rVert_2

    Several taps are added.

    Source: Tung & Mori 2019, arXiv:1907.09682, Sec. 3.
    """

    terms: ClassVar[tuple[str, ...]] = ("sp",)

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``sp``, a scalar."""
        return {"sp": torch.stack([sp_loss(own, other) for own, other in paired(student, teachers[0])]).sum()}
