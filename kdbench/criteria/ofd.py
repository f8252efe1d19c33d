"""A comprehensive overhaul of feature distillation: Heo et al. 2019."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria._features import FeatureCriterion, full_precision

_RARE = 0.001  # probability of a negative value below which its mean is not trusted


def margins(scale: Tensor, shift: Tensor) -> Tensor:
    r"""Mean of the negative values of each channel, of which BatchNorm says that it is distributed as N(β, γ²).

    .. math:: m = \mathrm{E}[x \mid x < 0] = \beta - \sigma \frac{e^{-\beta^2 / 2 \sigma^2}}{\sqrt{2 \pi} \, q}, \quad
        \sigma = |\gamma|, \; q = \Phi(-\beta / \sigma)

    and :math:`-3 \sigma` where negative values are rarer than one in a thousand.

    Args:
        scale: :math:`\gamma`, `(C,)`.
        shift: :math:`\beta`, `(C,)`.

    Returns:
        `(C,)`, at most 0, in the inputs' type; computed in float64.
    """
    sigma, beta = scale.detach().double().abs().clamp_min(1e-12), shift.detach().double()
    chance = torch.special.ndtr(-beta / sigma)
    density = (-beta.square() / (2 * sigma.square())).exp() / math.sqrt(2 * math.pi)
    mean = beta - sigma * density / chance.clamp_min(_RARE)
    return torch.where(chance > _RARE, mean, -3 * sigma).to(scale.dtype)


@full_precision
def partial_l2(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    r"""Squared distance from :math:`t' = \max(t, m)`, forgiven where both are negative and the student is below.

    .. math:: \tfrac1B \sum_{i,c,h,w} (s - t')^2 \, [s > t' \text{ or } t > 0]

    Args:
        student: :math:`s`, `(B, C, H, W)`.
        teacher: :math:`t`, same shape.
        margin: :math:`m`, `(C,)`, not positive.

    Returns:
        Scalar in squared units of the features, summed over channels and pixels.
    """
    target = torch.maximum(teacher, margin[:, None, None])
    counted = (student > target) | (target > 0)
    return ((student - target).square() * counted).sum() / len(student)


class OFD(FeatureCriterion):
    r"""Values before the last ReLU of each stage follow the teacher's, as far as the ReLU lets them through.

    .. math:: \sum_j 2^{j - n} \, \mathrm{partial}\bigl(r_j(f^S_j), \mathrm{pool}(f^T_j), m_j\bigr)

    with connectors :math:`r`, the last of n stages counted fully, and margins :math:`m` from the teacher's BatchNorm.
    Stages are paired from the last one on; the teacher's maps are average-pooled to the student's side.

    Source: Heo et al. 2019, arXiv:1904.01866, Sec. 3, and the released code, as in RepDistiller's protocol.
    Differs from: mdistiller, whose teacher is in train mode, and which cuts the wrong margins when stages differ in
        number.
    """

    terms: ClassVar[tuple[str, ...]] = ("ofd",)
    rank: ClassVar[int | None] = 3

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Creates the connectors, and reads the margins.

        Raises:
            ConfigError: A tap carries no map, or no BatchNorm of its channels precedes it in the teacher.
        """
        super().setup(student, teachers, data)
        teacher = teachers[0]
        self.stages = min(len(student.shapes), len(teacher.shapes))
        for number, tap in enumerate(list(teacher.shapes)[-self.stages :]):
            norm = teacher.norms.get(tap)
            if norm is None or not norm.affine:
                raise ConfigError(f"OFD takes margins from a BatchNorm before each tap of the teacher, but {tap} of "
                                  f"{teacher.name} has none of its channels")  # fmt: skip
            self.register_buffer(f"margin{number}", margins(norm.weight, norm.bias), persistent=False)
        shapes = zip(*(list(spec.shapes.values())[-self.stages :] for spec in (student, teacher)), strict=True)
        self.connectors = nn.ModuleList(self._connector(own[0], other[0]) for own, other in shapes)

    @staticmethod
    def _connector(c_in: int, c_out: int) -> nn.Module:
        conv = nn.Conv2d(c_in, c_out, 1, bias=False)
        nn.init.normal_(conv.weight, std=math.sqrt(2 / c_out))
        return nn.Sequential(conv, nn.BatchNorm2d(c_out))

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``ofd``, a scalar summed over stages."""
        own, other = (list(side.features.values())[-self.stages :] for side in (student, teachers[0]))
        losses = []
        for number, (connector, s, t) in enumerate(zip(self.connectors, own, other, strict=True)):
            guide = F.adaptive_avg_pool2d(t.detach(), (s.shape[2], s.shape[3]))
            loss = partial_l2(connector(s), guide, self.get_buffer(f"margin{number}"))
            losses.append(loss / 2 ** (self.stages - number - 1))
        return {"ofd": torch.stack(losses).sum()}
