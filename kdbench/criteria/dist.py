"""DIST, distillation from a stronger teacher: Huang et al. 2022."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria._functional import log_probabilities
from kdbench.criteria._options import check_number
from kdbench.criteria.base import Criterion


def correlation(a: Tensor, b: Tensor, *, eps: float = 1e-8) -> Tensor:
    r"""Pearson's correlation of each pair of vectors along the last axis.

    .. math:: \rho = \frac{\langle a - \bar a, b - \bar b \rangle}{\|a - \bar a\| \, \|b - \bar b\| + \epsilon}

    Args:
        a: `(..., N)`.
        b: Same shape.
        eps: :math:`\epsilon \ge 0`; keeps a constant vector at correlation 0. It also shrinks that of vectors whose
            norms are not far above :math:`\sqrt\epsilon`.

    Returns:
        `(...)`, in [-1, 1].
    """
    a = a - a.mean(dim=-1, keepdim=True)
    b = b - b.mean(dim=-1, keepdim=True)
    norms = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    return (a * b).sum(dim=-1) / (norms + eps)


class DIST(Criterion):
    r"""The student keeps the teacher's relations, not its values: correlated over classes, and over samples.

    .. math:: \mathrm{inter} = \tau^2 \Bigl(1 - \tfrac1B \sum_i \rho(Y^S_{i,:}, Y^T_{i,:})\Bigr), \qquad
        \mathrm{intra} = \tau^2 \Bigl(1 - \tfrac1C \sum_c \rho(Y^S_{:,c}, Y^T_{:,c})\Bigr)

    with the softened predictions :math:`Y = p(\tau)`, `(B, C)`, and Pearson's correlation :math:`\rho`. A student too
    small to reach a strong teacher's probabilities can still order them alike.

    Args:
        temperature: :math:`\tau > 0`, dimensionless; 4 on CIFAR-100, 1 on ImageNet.

    Raises:
        ConfigError: The temperature is not positive.

    Note:
        ``intra`` depends on the batch: in one of fewer samples than classes most of its columns are almost flat.

    Source: Huang et al. 2022, arXiv:2205.10536, Sec. 4; constants from its code, hunto/image_classification_sota.
    """

    terms: ClassVar[tuple[str, ...]] = ("inter", "intra")

    def __init__(self, *, temperature: float = 4.0) -> None:
        super().__init__()
        check_number("dist.temperature", temperature, above=0)
        self.temperature = temperature

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        r"""The terms ``inter`` and ``intra``, dimensionless scalars in :math:`[0, 2 \tau^2]`."""
        own = log_probabilities(student.logits, self.temperature).exp()
        guide = log_probabilities(teachers[0].logits.detach(), self.temperature).exp()
        scale = self.temperature**2
        return {
            "inter": scale * (1.0 - correlation(own, guide).mean()),
            "intra": scale * (1.0 - correlation(own.T, guide.T).mean()),
        }
