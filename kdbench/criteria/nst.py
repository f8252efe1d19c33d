"""Neuron selectivity transfer: Huang and Wang 2017."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria._features import FeatureCriterion, full_precision, paired, pool_alike, unit


def _mean_kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.transpose(1, 2)).square().mean()


@full_precision
def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Squared maximum mean discrepancy between the two sets of channels of each sample.

    .. math:: K(T, T) + K(S, S) - 2 K(S, T), \quad
        K(X, Y) = \tfrac{1}{B C C'} \sum_i \sum_{cc'} \langle x_{ic}, y_{ic'} \rangle^2

    with each channel :math:`x_{ic}` a vector of `H * W` pixels of length one.

    Args:
        student: `(B, C, H, W)`.
        teacher: `(B, C', H', W')`; maps of different side meet at the smaller.

    Returns:
        Scalar, dimensionless, in [0, 2] up to rounding; zero when both have the same channels in any order.
    """
    own, other = (unit(maps.flatten(2)) for maps in pool_alike(student, teacher))
    return _mean_kernel(other, other) + _mean_kernel(own, own) - 2.0 * _mean_kernel(own, other)


class NST(FeatureCriterion):
    r"""The student's channels are distributed as the teacher's: what neurons select, in any order and number.

    .. math:: \sum_j K(T_j, T_j) + K(S_j, S_j) - 2 K(S_j, T_j), \quad
        K(X, Y) = \tfrac{1}{B C C'} \sum_i \sum_{cc'} \langle x_{ic}, y_{ic'} \rangle^2

    Stages are paired from the first on; of maps of different side, the larger one is average-pooled to the smaller.

    Source: Huang & Wang 2017, arXiv:1707.01219, Sec. 4, with the polynomial kernel of degree 2 and offset 0.
    """

    terms: ClassVar[tuple[str, ...]] = ("nst",)
    per_sample: ClassVar[bool] = True
    rank: ClassVar[int | None] = 3

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``nst``, a scalar summed over stages."""
        return {"nst": torch.stack([nst_loss(own, other) for own, other in paired(student, teachers[0])]).sum()}
