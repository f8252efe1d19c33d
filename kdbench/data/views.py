"""Augmentation of a whole uint8 batch at once; what a sample looks like is a pure function of its key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from kdbench.data.counter import draw, fold


class View(Protocol):
    """One random transform of images.

    Attributes:
        stream: A number of its own, so that adding a view changes no draw of the others.
    """

    stream: int

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """The images as their keys say.

        Args:
            images: uint8, `(B, C, H, W)`; not written to.
            keys: One per image, `(B,)` int64.

        Returns:
            uint8, `(B, C, H, W)`, each image independent of the rest of the batch.
        """
        ...


def apply_views(views: Sequence[View], images: Tensor, keys: Tensor) -> Tensor:
    """All ``views`` in order, each with draws of its own.

    Args:
        views: May be empty.
        images: uint8, `(B, C, H, W)`.
        keys: From :func:`kdbench.data.counter.sample_keys`, `(B,)` int64.
    """
    for view in views:
        images = view(images, fold(keys, view.stream))
    return images


class CropFlip:
    """A crop at a random place of the image padded with black, mirrored left to right with probability 1/2.

    Every one of the ``(2 * padding + 1) ** 2`` offsets is equally likely.

    Args:
        padding: Pixels on each side, 0 or more.

    Source: He et al. 2016, arXiv:1512.03385, Sec. 4.2.
    """

    stream = 0

    def __init__(self, padding: int) -> None:
        self.padding = padding

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """See :class:`View`."""
        B, _, H, W = images.shape
        offsets = 2 * self.padding + 1
        top, left, mirrored = draw(keys[:, None], *torch.tensor([[0, 1, 2], [offsets, offsets, 2]]).to(keys)).unbind(1)
        both = pad(torch.cat([images, images.flip(3)]), [self.padding] * 4)
        number = torch.arange(B, device=keys.device) + B * mirrored
        return _windows(both, number, top, left + mirrored * (2 * self.padding - 2 * left), H, W)


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


VIEWS: Mapping[str, Callable[[int], tuple[View, ...]]] = {
    "none": lambda _padding: (),
    "crop_flip": lambda padding: (CropFlip(padding),),
}


def make_views(augment: str, padding: int) -> tuple[View, ...]:
    """The views that a dataset's keys ask for; :func:`kdbench.data.catalog.describe` has checked them.

    Args:
        augment: One of :data:`kdbench.data.catalog.AUGMENTS`.
        padding: Pixels on each side, 0 or more.
    """
    return VIEWS[augment](padding)
