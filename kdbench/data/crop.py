"""Crops and mirror images: what every CIFAR protocol begins with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from kdbench.data.counter import draw, uniform


def _windows(images: Tensor, number: Tensor, top: Tensor, left: Tensor, H: int, W: int) -> Tensor:
    """For each ``number`` the `(H, W)` part of that image with its corner at (``top``, ``left``), in the same layout.

    Every row of a window lies in one piece in memory: all are fetched by one selection from the overlapping windows on
    the flat storage, several times as fast as a gather of single pixels.
    """
    B, C = len(number), images.shape[1]
    if C > 1 and images.is_contiguous(memory_format=torch.channels_last):
        rows = images.permute(0, 2, 3, 1).flatten(2)[:, None]
        return _windows(rows, number, top, left * C, H, W * C).reshape(B, H, W, C).permute(0, 3, 1, 2)
    images = images.contiguous()
    plane = number[:, None] * C + torch.arange(C, device=number.device)
    row = (plane * images.shape[2] + top[:, None])[..., None] + torch.arange(H, device=number.device)
    start = row * images.shape[3] + left[:, None, None]
    flat = images.as_strided((images.numel() - W + 1, W), (1, 1))
    return flat.index_select(0, start.flatten()).reshape(B, C, H, W)


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
        B, _, H, W = images.shape
        top, left = draw(keys[:, None], torch.arange(2, device=keys.device), 2 * self.padding + 1).unbind(1)
        return _windows(pad(images, [self.padding] * 4), torch.arange(B, device=keys.device), top, left, H, W)


class CropFlip(Crop):
    """The same, mirrored left to right with probability 1/2."""

    stream = 0

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """See :class:`kdbench.data.views.View`."""
        B, _, H, W = images.shape
        offsets = 2 * self.padding + 1
        top, left, mirrored = draw(keys[:, None], *torch.tensor([[0, 1, 2], [offsets, offsets, 2]]).to(keys)).unbind(1)
        both = pad(torch.cat([images, images.flip(3)]), [self.padding] * 4)
        number = torch.arange(B, device=keys.device) + B * mirrored
        return _windows(both, number, top, left + mirrored * (2 * self.padding - 2 * left), H, W)


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
