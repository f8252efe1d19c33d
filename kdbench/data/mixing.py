"""Mixup and CutMix: each sample with another of its batch, at a share of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from kdbench.core.types import Batch, Mix
from kdbench.data.counter import draw, fold, uniform
from kdbench.data.erasing import inside
from kdbench.data.view_options import MIX_OPTIONS

_GRID = 4097  # points at which the distribution of shares is tabulated


class Mixing(Protocol):
    """How much of a sample is kept, and where."""

    def __call__(self, keys: Tensor, height: int, width: int) -> Tensor:
        """The part of each pixel that is kept, in [0, 1] float32, `(B, 1, H, W)` or `(B, 1, 1, 1)`."""
        ...


class Shares:
    r"""Draws from :math:`\mathrm{Beta}(\alpha, \alpha)`, one per key, by its inverted distribution function.

    Its lower half, written with :math:`x = \tfrac12 t^{1/c}` and :math:`c = \min(\alpha, 1)`, has the density
    :math:`t^{\max(\alpha, 1) - 1} (1 - \tfrac12 t^{1/c})^{\alpha - 1}` in :math:`t \in [0, 1]`: bounded also where
    the one in :math:`x` is infinite, so that a table of it is exact enough. The upper half is its mirror image.

    Args:
        alpha: Positive; 1 is the uniform distribution, less prefers shares near 0 and 1.
    """

    def __init__(self, alpha: float) -> None:
        self._root = 1 / min(alpha, 1.0)
        grid = torch.linspace(0, 1, _GRID, dtype=torch.float64)
        density = grid ** (max(alpha, 1.0) - 1) * (1 - 0.5 * grid**self._root) ** (alpha - 1)
        below = torch.cat([density.new_zeros(1), ((density[1:] + density[:-1]) / 2).cumsum(0)])
        self._below = below / below[-1]

    def __call__(self, keys: Tensor, number: int) -> Tensor:
        """One share per key from the draws ``number`` and ``number + 1``, float32, in [0, 1]."""
        table = self._below.to(keys.device)
        level = uniform(keys, number).double()
        right = torch.searchsorted(table, level, right=True).clamp(1, _GRID - 1)
        low, high = table[right - 1], table[right]
        place = (right - 1 + (level - low) / (high - low)) / (_GRID - 1)
        small = 0.5 * place**self._root
        return torch.where(draw(keys, number + 1, 2) == 1, 1 - small, small).float()


class Mixup:
    r"""Fades one image into another: :math:`\lambda x_i + (1 - \lambda) x_j`.

    Args:
        alpha: :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)`, for each sample.
        prob: Of a sample to be mixed at all.

    Source: Zhang et al. 2017, arXiv:1710.09412, Eq. 1.
    Differs from: the released code, which draws one :math:`\lambda` per batch.
    """

    def __init__(self, *, alpha: float, prob: float) -> None:
        self.prob = prob
        self._shares = Shares(alpha)

    def __call__(self, keys: Tensor, height: int, width: int) -> Tensor:
        """See :class:`Mixing`."""
        kept = torch.where(uniform(keys, 0) < self.prob, self._shares(keys, 1), 1.0)
        return kept[:, None, None, None]


class CutMix:
    r"""Replaces a rectangle by the same part of another image.

    Its sides are :math:`\sqrt{1 - \lambda}` of the image's, its centre is uniform, and what lies outside is cut off;
    the label's share is that of the pixels.

    Args:
        alpha: :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)`, for each sample.
        prob: Of a sample to be mixed at all.

    Source: Yun et al. 2019, arXiv:1905.04899, Sec. 3.1; rounding as in torchvision's ``CutMix``.
    Differs from: the released code, which draws one rectangle per batch.
    """

    def __init__(self, *, alpha: float, prob: float) -> None:
        self.prob = prob
        self._shares = Shares(alpha)

    def __call__(self, keys: Tensor, height: int, width: int) -> Tensor:
        """See :class:`Mixing`."""
        half = 0.5 * (1 - self._shares(keys, 1)).sqrt()
        half = torch.where(uniform(keys, 0) < self.prob, half, 0.0)
        cut = []
        for number, size in ((3, height), (4, width)):
            centre, reach = draw(keys, number, size), (half * size).long()
            cut.append(inside(size, centre - reach, centre + reach))
        rows, columns = cut
        return 1.0 - (rows[:, :, None] & columns[:, None, :]).float()[:, None]


MIXES: Mapping[str, Callable[..., Mixing]] = {"mixup": Mixup, "cutmix": CutMix}


def make_mixes(augment: Mapping[str, Mapping[str, Any]]) -> tuple[Mixing, ...]:
    """The mixes that a dataset asks for; :func:`kdbench.data.catalog.describe` has checked them.

    Args:
        augment: The node ``dataset.augment``: options by name. What is no mix is passed over.
    """
    return tuple(
        MIXES[name](**{key: augment[name][key] for key in options})
        for name, options in MIX_OPTIONS.items()
        if name in augment
    )


def mix_batch(mixes: Sequence[Mixing], batch: Batch, keys: Tensor) -> Batch:
    """Mixes every sample with another of the batch; several ``mixes`` get equal parts of the samples.

    Partners are a random permutation, so a sample may meet itself. A mixed sample depends on its batch: unlike a view
    it is a function of all of the batch's keys, which are themselves one of the seed and the step.

    Args:
        mixes: One or more.
        batch: Not mixed yet; a second view is mixed as the first.
        keys: One per sample, `(B,)` int64.
    """
    partner = fold(keys, 0).argsort()
    chosen = draw(keys, 1, len(mixes))
    kept = torch.ones(1, device=keys.device)
    for number, mixing in enumerate(mixes):
        part = mixing(fold(keys, 2 + number), *batch.inputs.shape[2:])
        kept = torch.where((chosen == number)[:, None, None, None], part, kept)
    views = [None if view is None else view[partner].lerp_(view, kept) for view in (batch.inputs, batch.second)]
    mix = Mix(batch.target[partner], kept.mean((1, 2, 3)))
    return batch._replace(inputs=views[0], second=views[1], mix=mix)
