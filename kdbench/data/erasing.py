"""Random erasing, on the whole batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kdbench.data.counter import draw, fold, uniform

_TRIES = 10  # after which an image is left as it is; torchvision's number


def inside(size: int, start: Tensor, stop: Tensor) -> Tensor:
    """Which of ``0 .. size - 1`` lie in ``[start, stop)``, `(B, size)` bool."""
    places = torch.arange(size, device=start.device)
    return (places >= start[:, None]) & (places < stop[:, None])


def _start(keys: Tensor, number: int, free: Tensor) -> Tensor:
    """A whole number in ``0 .. free``, each equally likely."""
    return (uniform(keys, number) * (free + 1)).long()


class Erasing:
    """A rectangle at a random place is erased.

    Its area is uniform in ``area``, the logarithm of its aspect uniform in that of ``aspect``; rectangles that do not
    fit inside the image are drawn again, ten times.

    Args:
        prob: Of an image to be erased at all.
        area: Bounds of the rectangle's part of the image, in [0, 1].
        aspect: Bounds of height over width, positive.
        fill: ``noise``, a uniform value in each pixel and channel; ``black``.

    Source: Zhong et al. 2017, arXiv:1708.04896, Sec. 3; as torchvision's ``RandomErasing``.
    Differs from: both in that pixels are not normalised yet, so ``noise`` is uniform over what pixels can be, as in the
        paper's RE-R; and from the paper, which draws the aspect itself uniformly.
    """

    stream = 6

    def __init__(self, *, prob: float, area: Sequence[float], aspect: Sequence[float], fill: str) -> None:
        self.prob = prob
        self.area = area
        self.aspect = aspect
        self.fill = fill

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """See :class:`kdbench.data.views.View`."""
        erased = self._rectangles(images, keys)
        if self.fill == "black":
            return images * ~erased
        B, C, H, W = images.shape
        sample, place = erased.view(B, H * W).nonzero(as_tuple=True)
        pixel = place[:, None] + H * W * torch.arange(C, device=keys.device)  # of each channel, within its image
        noise = draw(fold(keys, 5)[sample][:, None], pixel, 256).byte()
        filled = images.flatten().scatter(0, (sample[:, None] * C * H * W + pixel).flatten(), noise.flatten())
        return filled.view(B, C, H, W)

    def _rectangles(self, images: Tensor, keys: Tensor) -> Tensor:
        """Which pixels are erased, `(B, 1, H, W)` bool."""
        H, W = images.shape[2:]
        tries = fold(keys[:, None], torch.arange(_TRIES, device=keys.device))
        area = H * W * uniform(tries, 0, *self.area)
        aspect = uniform(tries, 1, *map(math.log, self.aspect)).double().exp()
        heights, widths = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
        fits = (heights < H) & (widths < W)
        first = fits.byte().argmax(1, keepdim=True)  # the first that fits
        height, width = heights.gather(1, first).squeeze(1), widths.gather(1, first).squeeze(1)
        hit = fits.any(1) & (uniform(keys, _TRIES) < self.prob)
        top, left = _start(keys, _TRIES + 1, H - height), _start(keys, _TRIES + 2, W - width)
        rows, columns = inside(H, top, top + height), inside(W, left, left + width)
        return (hit[:, None, None] & rows[:, :, None] & columns[:, None, :])[:, None]
