"""Crops and mirror images: what every protocol begins with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from kdbench.data.counter import draw, fold, uniform


def _windows(images: Tensor, top: Tensor, left: Tensor, H: int, W: int) -> Tensor:
    """Of each image the `(H, W)` part with its corner at (``top``, ``left``), in the same layout.

    Every row of a window lies in one piece in memory: all are fetched by one selection from the overlapping windows on
    the flat storage, several times as fast as a gather of single pixels.
    """
    B, C = images.shape[:2]
    if C > 1 and images.is_contiguous(memory_format=torch.channels_last):
        rows = images.permute(0, 2, 3, 1).flatten(2)[:, None]
        return _windows(rows, top, left * C, H, W * C).reshape(B, H, W, C).permute(0, 3, 1, 2)
    images = images.contiguous()
    plane = torch.arange(B * C, device=top.device).view(B, C)
    row = (plane * images.shape[2] + top[:, None])[..., None] + torch.arange(H, device=top.device)
    start = row * images.shape[3] + left[:, None, None]
    flat = images.as_strided((images.numel() - W + 1, W), (1, 1))
    return flat.index_select(0, start.flatten()).reshape(B, C, H, W)


def _mirrored(images: Tensor, which: Tensor) -> Tensor:
    """Those of ``which``, `(B,)` of 0 and 1, left to right: whole images are chosen, much faster than pixels."""
    B, C = images.shape[:2]
    number = torch.arange(B, device=which.device) + B * which
    if C > 1 and images.is_contiguous(memory_format=torch.channels_last):
        rows = images.permute(0, 2, 3, 1)
        return torch.cat([rows, rows.flip(2)]).index_select(0, number).permute(0, 3, 1, 2)
    return torch.cat([images, images.flip(3)]).index_select(0, number)


class Crop:
    """A crop at a random place of the image padded with black.

    Every one of the ``(2 * padding + 1) ** 2`` offsets is equally likely.

    Args:
        padding: Pixels on each side, 0 or more.

    Source: He et al. 2016, arXiv:1512.03385, Sec. 4.2.
    """

    stream = 1

    def __init__(self, *, padding: int) -> None:
        self.padding = padding

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """See :class:`kdbench.data.views.View`."""
        top, left = draw(keys[:, None], torch.arange(2, device=keys.device), 2 * self.padding + 1).unbind(1)
        return self._crop(images, top, left)

    def _crop(self, images: Tensor, top: Tensor, left: Tensor) -> Tensor:
        return _windows(pad(images, [self.padding] * 4), top, left, *images.shape[2:])


class CropFlip(Crop):
    """The same, mirrored left to right with probability 1/2."""

    stream = 0

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """See :class:`kdbench.data.views.View`."""
        offsets = 2 * self.padding + 1
        top, left, mirrored = draw(keys[:, None], *torch.tensor([[0, 1, 2], [offsets, offsets, 2]]).to(keys)).unbind(1)
        return _mirrored(self._crop(images, top, left), mirrored)


class Flip:
    """The mirror image, left to right.

    Args:
        prob: How likely, in [0, 1].
    """

    stream = 2

    def __init__(self, *, prob: float) -> None:
        self.prob = prob

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """See :class:`kdbench.data.views.View`."""
        return _mirrored(images, (uniform(keys, 0) < self.prob).long())


class ResizedCrop:
    """A part of the photo of random area and shape, scaled to the size that networks take.

    Not a view of a batch: it needs the whole photo, so that it is made where photos are decoded. As a view it is a pure
    function of the sample's key. Ten proposals are drawn; if none lies within the photo, the middle is shown.

    Args:
        area: Smallest and largest part of the photo's area.
        aspect: Smallest and largest width over height; its logarithm is uniform.

    Source: Szegedy et al. 2015, arXiv:1409.4842, Sec. 6; proposals and fall-back as torchvision's RandomResizedCrop.
    """

    stream = 12
    proposals = 10

    def __init__(self, *, area: Sequence[float], aspect: Sequence[float]) -> None:
        self.area = tuple(area)
        self.aspect = tuple(map(math.log, aspect))

    def draws(self, keys: Tensor) -> Tensor:
        """The random numbers of each sample's crop, in [0, 1): `(B, D)` float32 for its keys `(B,)`."""
        numbers = torch.arange(2 * self.proposals + 2, device=keys.device)
        return uniform(fold(keys, self.stream)[:, None], numbers)

    def box(self, draws: NDArray[np.float32], width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the crop of a photo of this size, in pixels.

        Args:
            draws: Of the sample, from :meth:`draws`.
            width: Of the photo.
            height: Of the photo.
        """
        places, proposals = draws[:2].tolist(), draws[2:].reshape(-1, 2).tolist()
        for first, second in proposals:
            pixels = width * height * (self.area[0] + first * (self.area[1] - self.area[0]))
            shape = math.exp(self.aspect[0] + second * (self.aspect[1] - self.aspect[0]))
            w, h = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(places[0] * (width - w + 1)), int(places[1] * (height - h + 1))
                return left, top, left + w, top + h
        shape = min(max(width / height, math.exp(self.aspect[0])), math.exp(self.aspect[1]))
        w, h = min(width, round(height * shape)), min(height, round(width / shape))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h
