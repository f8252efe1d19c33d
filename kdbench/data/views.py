"""Augmentation of a whole uint8 batch at once; what a sample looks like is a pure function of its key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from kdbench.data.auto_augment import RandAugment, TrivialAugment
from kdbench.data.color_jitter import ColorJitter
from kdbench.data.counter import fold
from kdbench.data.crop import Crop, CropFlip, Flip
from kdbench.data.erasing import Erasing
from kdbench.data.view_options import VIEW_OPTIONS


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


VIEWS: Mapping[str, Callable[..., View]] = {
    "crop_flip": CropFlip,
    "crop": Crop,
    "flip": Flip,
    "color_jitter": ColorJitter,
    "randaugment": RandAugment,
    "trivialaugment": TrivialAugment,
    "erasing": Erasing,
}


def make_views(augment: Mapping[str, Mapping[str, Any]]) -> tuple[View, ...]:
    """The views that a dataset asks for, in their order; :func:`kdbench.data.catalog.describe` has checked them.

    Args:
        augment: The node ``dataset.augment``: options by name. What is no view (``none``, mixes) is passed over.
    """
    return tuple(
        VIEWS[name](**{key: augment[name][key] for key in options})
        for name, options in VIEW_OPTIONS.items()
        if name in augment
    )


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
