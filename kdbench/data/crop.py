"""Crops and mirror images: what every CIFAR protocol begins with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from kdbench.data.counter import draw, uniform


def window(images: Tensor, padding: int, top: Tensor, left: Tensor, mirrored: Tensor | None = None) -> Tensor:
    """The part of each padded image that has the image's own size, by one gather.

    Args:
        images: `(B, C, H, W)`.
        padding: Black pixels added on each side.
        top: First row of each part, `(B,)` int64, in 0 .. 2 * padding.
        left: First column of each, the same.
        mirrored: Which parts are mirrored left to right, `(B,)` bool; ``None`` for none.

    Returns:
        `(B, C, H, W)`.
    """
    B, C, H, W = images.shape
    rows = torch.arange(H, device=images.device) + top[:, None]
    columns = torch.arange(W, device=images.device).expand(B, W)
    if mirrored is not None:
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    padded = pad(images, [padding] * 4)
    source = rows[:, :, None] * padded.shape[-1] + (columns + left[:, None])[:, None, :]
    return padded.flatten(2).gather(2, source.reshape(B, 1, H * W).expand(B, C, H * W)).reshape(B, C, H, W)


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
        offsets = 2 * self.padding + 1
        return window(images, self.padding, draw(keys, 0, offsets), draw(keys, 1, offsets))


class CropFlip(Crop):
    """The same, mirrored left to right with probability 1/2."""

    stream = 0

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """See :class:`kdbench.data.views.View`."""
        offsets = 2 * self.padding + 1
        return window(images, self.padding, draw(keys, 0, offsets), draw(keys, 1, offsets), draw(keys, 2, 2) == 1)


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
        mirrored = uniform(keys, 0) < self.prob
        return torch.where(mirrored[:, None, None, None], images.flip(-1), images)
