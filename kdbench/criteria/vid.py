"""Variational information distillation: Ahn et al. 2019."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria._connectors import pointwise_convs
from kdbench.criteria._features import FeatureCriterion, full_precision, paired, paired_shapes, pool_alike
from kdbench.criteria._options import check_number

_FLOOR = 1e-5  # below every variance


def rho_of(variance: float) -> float:
    r"""The :math:`\rho` with :math:`\mathrm{softplus}(\rho) + 10^{-5}` equal to ``variance``."""
    return math.log(math.expm1(variance - _FLOOR))


@full_precision
def vid_loss(mean: Tensor, teacher: Tensor, rho: Tensor) -> Tensor:
    r"""Negative log-likelihood of the teacher's map under a normal distribution, without :math:`\tfrac12 \log 2\pi`.

    .. math:: \tfrac{1}{BCHW} \sum \tfrac12 \bigl[(\mu - f^T)^2 / \sigma_c^2 + \log \sigma_c^2\bigr], \quad
        \sigma_c^2 = \mathrm{softplus}(\rho_c) + 10^{-5}

    Args:
        mean: :math:`\mu`, `(B, C, H, W)`.
        teacher: :math:`f^T`, same shape.
        rho: :math:`\rho`, `(C,)`.

    Returns:
        Scalar in nats; negative where the variances are small.
    """
    variance = (F.softplus(rho) + _FLOOR).reshape(-1, 1, 1)
    return ((mean - teacher).square() / variance + variance.log()).mean() / 2


class VID(FeatureCriterion):
    r"""The student's maps make the teacher's likely: a bound on the information that they share.

    .. math:: \sum_j \tfrac{1}{B C_j H_j W_j} \sum \tfrac12
        \bigl[(\mu_j(f^S_j) - f^T_j)^2 / \sigma_{jc}^2 + \log \sigma_{jc}^2\bigr]

    The mean :math:`\mu` is three 1x1 convolutions; each channel has a trained variance. Stages are paired from the
    first on; of maps of different side, the larger one is average-pooled to the smaller before the convolutions.

    Args:
        variance: :math:`\sigma^2` at the start, above 1e-5, in squared units of the features.

    Raises:
        ConfigError: The variance is too small.

    Source: Ahn et al. 2019, arXiv:1904.05835, Sec. 2; the heads as in RepDistiller.
    Differs from: mdistiller, whose variances never reach the optimiser and stay where they start.
    """

    terms: ClassVar[tuple[str, ...]] = ("vid",)
    per_sample: ClassVar[bool] = True
    rank: ClassVar[int | None] = 3

    def __init__(self, *, variance: float = 5.0) -> None:
        super().__init__()
        check_number("vid.variance", variance, above=_FLOOR)
        self.variance = variance

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Creates the mean and the variances of each stage.

        Raises:
            ConfigError: A tap is missing, or carries no map.
        """
        super().setup(student, teachers, data)
        widths = [(own[0], other[0]) for own, other in paired_shapes(student, teachers[0])]
        self.means = nn.ModuleList(pointwise_convs(own, other, other, other) for own, other in widths)
        self.rhos = nn.ParameterList(torch.full((other,), rho_of(self.variance)) for _, other in widths)

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``vid``, a scalar in nats summed over stages."""
        losses = []
        for mean, rho, pair in zip(self.means, self.rhos, paired(student, teachers[0]), strict=True):
            own, other = pool_alike(*pair)
            losses.append(vid_loss(mean(own), other, rho))
        return {"vid": torch.stack(losses).sum()}
