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

    One gather does both. Every one of the ``(2 * padding + 1) ** 2`` offsets is equally likely.

    Args:
        padding: Pixels on each side, 0 or more.

    Source: He et al. 2016, arXiv:1512.03385, Sec. 4.2.
    """

    stream = 0

    def __init__(self, padding: int) -> None:
        self.padding = padding

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """See :class:`View`."""
        B, C, H, W = images.shape
        offsets = 2 * self.padding + 1
        rows = torch.arange(H, device=images.device) + draw(keys, 0, offsets)[:, None]
        ahead = torch.arange(W, device=images.device)
        columns = torch.where(draw(keys, 2, 2)[:, None] == 1, ahead.flip(0), ahead) + draw(keys, 1, offsets)[:, None]
        padded = pad(images, [self.padding] * 4)
        source = rows[:, :, None] * padded.shape[-1] + columns[:, None, :]
        return padded.flatten(2).gather(2, source.reshape(B, 1, H * W).expand(B, C, H * W)).reshape(B, C, H, W)


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
