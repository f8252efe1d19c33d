"""The teacher's classifier, reused: Chen et al. 2022."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria._features import (
    FeatureCriterion,
    Shape,
    full_precision,
    linear_head,
    paired,
    paired_shapes,
    pool_alike,
)
from kdbench.criteria._options import check_number
from kdbench.criteria.base import Parts


@full_precision
def map_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean over every element, :math:`\tfrac{1}{BCHW} \lVert f^S - f^T \rVert_2^2`.

    Args:
        student: `(B, C, H, W)`.
        teacher: `(B, C, H', W')`; the larger map is average-pooled to the size of the smaller.

    Returns:
        Scalar in squared units of the features.
    """
    return F.mse_loss(*pool_alike(student, teacher))


def projector(own: Shape, other: Shape, factor: float) -> nn.Sequential:
    """1x1, 3x3 and 1x1 convolutions without bias, each with BatchNorm and ReLU, through `C' / factor` channels.

    A map `own`, `(C, H, W)`, larger than `other`, `(C', H', W')`, is average-pooled to its size first.
    """
    middle = max(int(other[0] / factor), 1)
    size = (min(own[1], other[1]), min(own[2], other[2]))
    layers: list[nn.Module] = [] if size == own[1:] else [nn.AdaptiveAvgPool2d(size)]
    for c_in, c_out, kernel in ((own[0], middle, 1), (middle, middle, 3), (middle, other[0], 1)):
        layers += [nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
    return nn.Sequential(*layers)


class SimKD(FeatureCriterion):
    r"""The student, through a projector, gives the teacher's last map, and the teacher's classifier reads it.

    .. math:: \tfrac{1}{BCHW} \lVert p(f^S) - f^T \rVert_2^2

    What is trained, measured, stored and deployed is the student's body, the projector :math:`p`, global average
    pooling and the teacher's classifier, which is frozen: its parameters count as the student's.

    Args:
        factor: Channels of the teacher's map, per channel in the middle of the projector.

    Raises:
        ConfigError: The factor is not positive.

    Source: Chen et al. 2022, arXiv:2203.14001, Sec. 3, with the projector of the authors' code.
    """

    terms: ClassVar[tuple[str, ...]] = ("simkd",)
    rank: ClassVar[int | None] = 3
    single: ClassVar[bool] = True
    deploys: ClassVar[bool] = True

    def __init__(self, *, factor: float = 2.0) -> None:
        super().__init__()
        check_number("simkd.factor", factor, above=0)
        self.factor = factor

    def parts(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> Parts:
        """The projector and the teacher's classifier.

        Raises:
            ConfigError: Not one teacher, or its classifier is not one linear layer behind its pooled last map.
        """
        self.setup(student, teachers, data)
        ((own, other),) = paired_shapes(student, teachers[0])
        head = copy.deepcopy(linear_head("SimKD", teachers[0], other[0]))
        return Parts(head.requires_grad_(False), projector(own, other, self.factor))

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``simkd``, a scalar in squared units of the teacher's features."""
        ((own, other),) = paired(student, teachers[0])
        return {"simkd": map_loss(own, other)}
