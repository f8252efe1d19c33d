"""Activation boundaries: Heo et al. 2019."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria._connectors import resizing_conv
from kdbench.criteria._features import FeatureCriterion, Shape, full_precision, paired, paired_shapes
from kdbench.criteria._options import check_number

_SCALE = 3.0 / 1000.0


@full_precision
def boundary_loss(student: Tensor, teacher: Tensor, *, margin: float) -> Tensor:
    r"""Student neurons on the wrong side of zero, or within the margin of it.

    .. math:: \tfrac1B \sum [t \le 0] \max(s + \mu, 0)^2 + [t > 0] \max(\mu - s, 0)^2

    Args:
        student: Pre-activations :math:`s`, `(B, C, H, W)`.
        teacher: Pre-activations :math:`t`, same shape; only their signs count.
        margin: :math:`\mu`, positive, in units of the pre-activations.

    Returns:
        Scalar in squared units of the student's: a sum over neurons, averaged over samples.
    """
    wrong = torch.where(teacher > 0, margin - student, student + margin)
    return wrong.clamp_min(0.0).square().sum() / len(student)


def _connector(own: Shape, other: Shape) -> nn.Module:
    if own == other:
        return nn.Identity()
    return nn.Sequential(resizing_conv(own, other), nn.BatchNorm2d(other[0]))


class AB(FeatureCriterion):
    r"""The student's neurons fire where the teacher's do.

    .. math:: \tfrac{3}{1000 B} \sum_{j=1}^{n} 2^{j - n} \sum [t_j \le 0] \max(s_j + \mu, 0)^2
        + [t_j > 0] \max(\mu - s_j, 0)^2

    with :math:`s_j` the student's pre-activation at stage :math:`j` behind a convolution and BatchNorm, or as it is
    where the shapes agree. It only initialises: the training proper has the task loss alone.

    Args:
        margin: :math:`\mu`, in units of the pre-activations.

    Raises:
        ConfigError: The margin is not positive.

    Source: Heo et al. 2019, arXiv:1811.03233, Sec. 3, with the connectors and the scale of RepDistiller.
    Differs from: RepDistiller, where the last BatchNorm of a WRN, which gives the last stage's pre-activation, is not
        trained in this phase.
    """

    terms: ClassVar[tuple[str, ...]] = ("ab",)
    rank: ClassVar[int | None] = 3

    def __init__(self, *, margin: float = 1.0) -> None:
        super().__init__()
        check_number("ab.margin", margin, above=0)
        self.margin = margin

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Creates a connector for each pair of stages.

        Raises:
            ConfigError: A tap is missing or carries no map, or the teacher's map is larger but not twice as large.
        """
        super().setup(student, teachers, data)
        self.connectors = nn.ModuleList(_connector(*shapes) for shapes in paired_shapes(student, teachers[0]))

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``ab``, a scalar in squared units of pre-activations, of which the deepest stage counts most."""
        total = torch.zeros((), dtype=torch.float32, device=student.logits.device)
        for connector, (own, other) in zip(self.connectors, paired(student, teachers[0]), strict=True):
            total = total / 2.0 + boundary_loss(connector(own), other, margin=self.margin)
        return {"ab": _SCALE * total}
