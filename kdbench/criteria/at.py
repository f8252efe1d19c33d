"""Attention transfer: Zagoruyko and Komodakis 2017."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria._features import FeatureCriterion, full_precision, paired, pool_alike, unit
from kdbench.criteria._options import check_choice

_FORMS = ("released", "paper")


def attention_map(maps: Tensor) -> Tensor:
    r"""Where a network looks: :math:`A = q / \lVert q \rVert_2`, :math:`q_{hw} = \tfrac1C \sum_c f_{chw}^2`.

    Args:
        maps: `(B, C, H, W)`.

    Returns:
        `(B, H * W)`, not negative, of length 1 (0 for a map of zeros).
    """
    return unit(maps.square().mean(dim=1).flatten(1))


@full_precision
def at_loss(student: Tensor, teacher: Tensor, *, form: str) -> Tensor:
    r"""Distance between two networks' attention maps, at the smaller of their sides.

    .. math:: \tfrac{1}{B H W} \sum_i \lVert A^S_i - A^T_i \rVert_2^2 \quad\text{or}\quad
        \tfrac{1}{2B} \sum_i \lVert A^S_i - A^T_i \rVert_2

    Args:
        student: `(B, C, H, W)`.
        teacher: `(B, C', H', W')`.
        form: ``released``, the first; ``paper``, the second.

    Returns:
        Scalar, dimensionless: at most :math:`2 / HW`, or :math:`1 / \sqrt2`. Zero when both look alike.
    """
    student, teacher = pool_alike(student, teacher)
    difference = attention_map(student) - attention_map(teacher)
    return difference.square().mean() if form == "released" else difference.norm(dim=1).mean() / 2


class AT(FeatureCriterion):
    r"""The student looks where its teacher looks, stage by stage.

    .. math:: \sum_j \tfrac{1}{B H_j W_j} \sum_i \lVert A^S_{ij} - A^T_{ij} \rVert_2^2, \quad
        A = q / \lVert q \rVert_2, \; q_{hw} = \tfrac1C \sum_c f_{chw}^2

    Stages are paired from the first on; of maps of different side, the larger one is average-pooled to the smaller.

    Args:
        form: ``released`` as above, for weights near 1000; ``paper``: :math:`\tfrac12 \lVert A^S - A^T \rVert_2`, not
            squared and not divided by the number of pixels.

    Raises:
        ConfigError: The form does not exist.

    Source: Zagoruyko & Komodakis 2017, arXiv:1612.03928, Eq. 2 and the released code; pooling as in RepDistiller.
    Differs from: the paper's gradient-based attention, which is another method.
    """

    terms: ClassVar[tuple[str, ...]] = ("at",)
    per_sample: ClassVar[bool] = True
    rank: ClassVar[int | None] = 3

    def __init__(self, *, form: str = "released") -> None:
        super().__init__()
        check_choice("at.form", form, _FORMS)
        self.form = form

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``at``, a scalar summed over stages."""
        losses = [at_loss(own, other, form=self.form) for own, other in paired(student, teachers[0])]
        return {"at": torch.stack(losses).sum()}
