"""Datasets of single photos: what each reader opens. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from kdbench.core.errors import DataError
from kdbench.data.folders import LISTERS
from kdbench.data.huggingface import open_table
from kdbench.data.photos import Photos

SOURCE_KEYS = ("reader", "test_folder", "repo", "subset", "test_split", "image_column", "label_column")


class Album(Protocol):
    """Photos with their classes, in a training and a test part."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        ...

    @property
    def sizes(self) -> dict[str, int]:
        """Images in each part."""
        ...

    def manifest(self) -> str:
        """What identifies them, 64 hexadecimal digits; reads no pixel."""
        ...

    def photos(self) -> Sequence[Photos]:
        """The training and the test images."""
        ...


def _open_folder(config: Mapping[str, Any], folder: Path | None) -> Album:
    assert folder is not None
    return LISTERS[config["reader"]](config, folder)


ALBUMS: Mapping[str, Callable[[Mapping[str, Any], Path | None], Album]] = {
    **dict.fromkeys(LISTERS, _open_folder),
    "hf": open_table,
}


def is_streamed(config: Mapping[str, Any], in_memory: bool | None, *, fit: bool) -> bool:
    """Whether images are decoded anew in every epoch.

    Args:
        config: The dataset's.
        in_memory: What the user wants; ``None`` for whatever is possible.
        fit: Whether they fit into memory.

    Raises:
        DataError: They cannot be held in memory, since each epoch shows another part of the photos.
    """
    cropped = "resized_crop" in config["augment"]
    if cropped and in_memory:
        raise DataError("dataset.in_memory=true: resized_crop shows parts of whole photos, which are not kept; "
                        "take dataset.in_memory=null, or crop_flip")  # fmt: skip
    return cropped or in_memory is False or (in_memory is None and not fit)
