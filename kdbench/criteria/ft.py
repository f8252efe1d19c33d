"""Factor transfer: Kim et al. 2018."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria._features import (
    FeatureCriterion,
    full_precision,
    mean_squared_error,
    paired,
    paired_shapes,
    pool_alike,
    unit,
)
from kdbench.criteria._options import check_number

_SLOPE = 0.1


@full_precision
def factor_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Distance of the factors' normalised attention, :math:`\tfrac{1}{BHW} \lVert A^S - A^T \rVert_1`.

    .. math:: A = a / \lVert a \rVert_2, \quad a_{hw} = \tfrac1D \sum_d f_{dhw}^2

    Args:
        student: Factors, `(B, D, H, W)`.
        teacher: `(B, D', H', W')`; the larger map is average-pooled to the size of the smaller.

    Returns:
        Scalar, dimensionless.
    """
    own, other = (unit(x.square().mean(dim=1).flatten(1)) for x in pool_alike(student, teacher))
    return (own - other).abs().mean()


def _activated(layer: nn.Module, *rest: nn.Module) -> list[nn.Module]:
    return [layer, *rest, nn.LeakyReLU(_SLOPE)]


def _encoder(channels: int, factors: int) -> nn.Sequential:
    widths = ((channels, channels), (channels, factors), (factors, factors))
    return nn.Sequential(*(m for i, o in widths for m in _activated(nn.Conv2d(i, o, 3, padding=1))))


def _decoder(channels: int, factors: int) -> nn.Sequential:
    widths = ((factors, factors), (factors, channels), (channels, channels))
    return nn.Sequential(*(m for i, o in widths for m in _activated(nn.ConvTranspose2d(i, o, 3, padding=1))))


def _translator(channels: int, factors: int) -> nn.Sequential:
    widths = ((channels, channels), (channels, factors), (factors, factors))
    layers = (m for i, o in widths for m in _activated(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o)))
    return nn.Sequential(*layers)


class FT(FeatureCriterion):
    r"""The student's factors attend where the teacher's do.

    .. math:: \tfrac{1}{BHW} \lVert A(t(f^S)) - A(e(f^T)) \rVert_1, \qquad
        \tfrac{1}{BCHW} \lVert d(e(f^T)) - f^T \rVert_2^2

    The paraphraser is an auto-encoder :math:`d \circ e` of the teacher's map, trained first, by ``ft_reconstruction``;
    where that term does not count, it is frozen. The translator :math:`t` is trained with the student.

    Args:
        rate: Channels of a factor, per channel of the teacher's map, in (0, 1].

    Raises:
        ConfigError: The rate is out of range.

    Source: Kim et al. 2018, arXiv:1802.04977, Sec. 3, with the layers and the norms of RepDistiller.
    Differs from: the paper, which normalises the factors themselves, where the attention is taken here.
    """

    terms: ClassVar[tuple[str, ...]] = ("ft", "ft_reconstruction")
    rank: ClassVar[int | None] = 3
    single: ClassVar[bool] = True

    def __init__(self, *, rate: float = 0.5) -> None:
        super().__init__()
        check_number("ft.rate", rate, above=0)
        if rate > 1:
            raise ConfigError(f"ft.rate={rate:g}: a factor has at most as many channels as the map, so at most 1")
        self.rate = rate
        self._wanted: Collection[str] = self.terms

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Creates the paraphraser and the translator.

        Raises:
            ConfigError: Not one tap of each side, or it carries no map.
        """
        super().setup(student, teachers, data)
        (((own, *_), (other, *_)),) = paired_shapes(student, teachers[0])
        factors = max(int(self.rate * other), 1)
        self.encoder, self.decoder = _encoder(other, factors), _decoder(other, factors)
        self.translator = _translator(own, factors)

    def enter_phase(self, terms: Collection[str]) -> None:
        """Freezes the paraphraser where its reconstruction does not count, and the translator where it alone does."""
        self._wanted = terms
        for module in (self.encoder, self.decoder):
            module.requires_grad_("ft_reconstruction" in terms)
        self.translator.requires_grad_("ft" in terms)

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The terms that count: ``ft``, dimensionless, and ``ft_reconstruction`` in squared units of the features."""
        ((own, other),) = paired(student, teachers[0])
        factors = self.encoder(other)
        terms = {}
        if "ft" in self._wanted:
            terms["ft"] = factor_loss(self.translator(own), factors.detach())
        if "ft_reconstruction" in self._wanted:
            terms["ft_reconstruction"] = mean_squared_error(self.decoder(factors), other)
        return terms
