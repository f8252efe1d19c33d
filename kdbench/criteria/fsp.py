"""Flow of the solution procedure: Yim et al. 2017."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria._features import (
    FeatureCriterion,
    full_precision,
    mean_squared_error,
    paired,
    paired_shapes,
    pool_alike,
)


@full_precision
def flow(shallow: Tensor, deep: Tensor) -> Tensor:
    r"""How the channels of two layers fire together, :math:`G_{pq} = \tfrac{1}{HW} \sum_{hw} f_{phw} \, g_{qhw}`.

    Args:
        shallow: :math:`f`, `(B, C, H, W)`.
        deep: :math:`g`, `(B, C', H', W')`; the larger map is average-pooled to the size of the smaller.

    Returns:
        `(B, C, C')`, at least float32.
    """
    first, second = (x.flatten(2) for x in pool_alike(shallow, deep))
    return first @ second.transpose(1, 2) / first.shape[2]


class FSP(FeatureCriterion):
    r"""From each tap to the next, the student's flow follows the teacher's.

    .. math:: \sum_j \tfrac{1}{B C_j C_{j+1}} \lVert G^S_j - G^T_j \rVert_2^2, \quad
        G_{j,pq} = \tfrac{1}{HW} \sum_{hw} f_{j,phw} \, f_{j+1,qhw}

    Channels must agree, sides need not. It only initialises: the training proper has the task loss alone.

    Source: Yim et al. 2017, "A gift from knowledge distillation", CVPR, Eqs. 1 and 2, averaged as in RepDistiller.
    Differs from: the paper, which sums the squares of a matrix, and relates both ends of a stage where here one stage's
        end is related to the next one's.
    """

    terms: ClassVar[tuple[str, ...]] = ("fsp",)
    rank: ClassVar[int | None] = 3

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Checks that taps have equal channels.

        Raises:
            ConfigError: Fewer than two taps, or channels that differ.
        """
        super().setup(student, teachers, data)
        pairs = paired_shapes(student, teachers[0])
        if len(pairs) < 2:
            raise ConfigError(f"FSP relates consecutive taps, but {student.name} and {teachers[0].name} share one")
        for own, other in pairs:
            if own[0] != other[0]:
                raise ConfigError(
                    f"FSP needs equal channels at every tap, but {student.name} has {own[0]} where "
                    f"{teachers[0].name} has {other[0]}"
                )

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``fsp``, a scalar in the fourth power of the features' units, summed over pairs of taps."""
        both = pairwise(paired(student, teachers[0]))
        losses = [mean_squared_error(flow(own, own_next), flow(other, other_next))
                  for (own, other), (own_next, other_next) in both]  # fmt: skip
        return {"fsp": torch.stack(losses).sum()}
