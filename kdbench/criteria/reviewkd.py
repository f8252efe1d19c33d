"""Knowledge review: Chen et al. 2021."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria._features import FeatureCriterion, Shape, full_precision, paired, paired_shapes
from kdbench.criteria._options import check_number

_PYRAMID = (4, 2, 1)


@full_precision
def hcl_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Hierarchical context loss: errors at full size and average-pooled to 4, 2 and 1 pixels a side.

    .. math:: \frac{\sum_k 2^{-k} \, \mathrm{MSE}\bigl(\mathrm{pool}_{n_k}(f^S), \mathrm{pool}_{n_k}(f^T)\bigr)}
        {\sum_k 2^{-k}}

    with :math:`n_0` the full side, followed by those of 4, 2, 1 that are smaller.

    Args:
        student: `(B, C, H, W)`.
        teacher: Same shape.

    Returns:
        Scalar in squared units of the features.
    """
    loss, weight, total = F.mse_loss(student, teacher), 1.0, 1.0
    for side in _PYRAMID:
        if side < student.shape[2]:
            weight /= 2.0
            pooled = F.mse_loss(F.adaptive_avg_pool2d(student, side), F.adaptive_avg_pool2d(teacher, side))
            loss = loss + weight * pooled
            total += weight
    return loss / total


def _as_map(features: Tensor) -> Tensor:
    return features if features.dim() == 4 else features[..., None, None]


def _map_shape(shape: Shape) -> Shape:
    return shape if len(shape) == 3 else (*shape, 1, 1)


def _normed_conv(c_in: int, c_out: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


class AttentionFusion(nn.Module):
    """One level of the review: the student's map, fused with what the deeper levels carry, at the teacher's shape.

    Args:
        source: Shape of the student's map, `(C, H, W)`.
        target: Shape of the teacher's map, `(C', H', W')`.
        mid: Channels of what is carried.
        deepest: Whether nothing is carried to this level.
    """

    def __init__(self, source: Shape, target: Shape, mid: int, *, deepest: bool) -> None:
        super().__init__()
        self.target_size = target[1:]
        self.inward = _normed_conv(source[0], mid, 1)
        self.outward = _normed_conv(mid, target[0], 3)
        self.attention = None if deepest else nn.Conv2d(2 * mid, 2, 1)

    def forward(self, own: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is compared with the teacher, `(B, C', H', W')`, and what is carried on, `(B, mid, H', W')`.

        Args:
            own: `(B, C, H, W)`.
            carried: `(B, mid, h, w)` of the next deeper level; ``None`` at the deepest.
        """
        x = self.inward(own)
        if self.attention is not None:
            assert carried is not None
            carried = F.interpolate(carried, x.shape[2:], mode="nearest")
            share = self.attention(torch.cat([x, carried], dim=1)).sigmoid()
            x = share[:, :1] * x + share[:, 1:] * carried
        if x.shape[2:] != self.target_size:
            x = F.interpolate(x, self.target_size, mode="nearest")
        return self.outward(x), x


class ReviewKD(FeatureCriterion):
    r"""Each level of the teacher teaches the student's fusion of that level with all deeper ones.

    .. math:: \sum_j \mathrm{HCL}\bigl(u_j(f^S_j, \ldots, f^S_n), f^T_j\bigr)

    Levels are the taps in the order given, from shallow to deep; a vector is a map of one pixel. The published levels
    are all stages and the pooled vector, before the last ReLU on the teacher's side.

    Args:
        max_mid: Upper limit to the channels of what is carried, which are as many as the student's deepest level has.

    Raises:
        ConfigError: The limit is not positive.

    Source: Chen et al. 2021, arXiv:2104.09044, Sec. 3, and the released code.
    Differs from: the released code, whose warm-up (a weight in the method's file) grows by whole epochs.
    """

    terms: ClassVar[tuple[str, ...]] = ("reviewkd",)
    per_sample: ClassVar[bool] = True

    def __init__(self, *, max_mid: int = 512) -> None:
        super().__init__()
        check_number("reviewkd.max_mid", max_mid, above=0)
        self.max_mid = max_mid

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Creates one fusion per level.

        Raises:
            ConfigError: The two sides have different numbers of levels, or one carries neither a map nor a vector.
        """
        super().setup(student, teachers, data)
        if len(student.shapes) != len(teachers[0].shapes):
            raise ConfigError(
                f"ReviewKD pairs level by level, but {student.name} gives {len(student.shapes)} taps and "
                f"{teachers[0].name} {len(teachers[0].shapes)}; name as many of each in method.taps"
            )
        levels = [(_map_shape(own), _map_shape(other)) for own, other in paired_shapes(student, teachers[0])]
        if unfit := [shape for level in levels for shape in level if len(shape) != 3]:
            raise ConfigError(f"ReviewKD reads maps and vectors; a tap in method.taps has the shape {unfit[0][:-2]}")
        mid = min(self.max_mid, levels[-1][0][0])
        self.fusions = nn.ModuleList(
            AttentionFusion(own, other, mid, deepest=number == len(levels))
            for number, (own, other) in enumerate(levels, 1)
        )

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``reviewkd``, a scalar summed over levels."""
        carried, losses = None, []
        for fusion, (own, other) in reversed(list(zip(self.fusions, paired(student, teachers[0]), strict=True))):
            seen, carried = fusion(_as_map(own), carried)
            losses.append(hcl_loss(seen, _as_map(other)))
        return {"reviewkd": torch.stack(losses).sum()}
