"""Hints from an intermediate layer: Romero et al. 2015."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria._connectors import resizing_conv
from kdbench.criteria._features import FeatureCriterion, mean_squared_error, paired, paired_shapes


class FitNet(FeatureCriterion):
    r"""A regressor of the student's map predicts the teacher's.

    .. math:: \tfrac{1}{BCHW} \lVert r(f^S) - f^T \rVert_2^2, \quad r = \mathrm{ReLU} \circ \mathrm{BN} \circ
        \mathrm{conv}

    The convolution has a bias and brings the map to the teacher's size. Several taps are added.

    Source: Romero et al. 2015, arXiv:1412.6550, Eq. 3; one stage and the regressor as in RepDistiller.
    Differs from: the paper, which trains the lower half on the hint first, and the whole on soft targets afterwards.
    """

    terms: ClassVar[tuple[str, ...]] = ("fitnet",)
    per_sample: ClassVar[bool] = True
    rank: ClassVar[int | None] = 3

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Creates a regressor for each pair of taps.

        Raises:
            ConfigError: A tap is missing or carries no map, or the teacher's map is larger but not twice as large.
        """
        super().setup(student, teachers, data)
        self.connectors = nn.ModuleList(
            nn.Sequential(resizing_conv(own, other), nn.BatchNorm2d(other[0]), nn.ReLU())
            for own, other in paired_shapes(student, teachers[0])
        )

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``fitnet``, a scalar."""
        pairs = zip(self.connectors, paired(student, teachers[0]), strict=True)
        return {
            "fitnet": torch.stack(
                [mean_squared_error(connector(own), other) for connector, (own, other) in pairs]
            ).sum()
        }
