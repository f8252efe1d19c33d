"""Photos that are decoded when they are asked for, and what makes them images of one size. Needs no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdbench.core.errors import DataError

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the photo
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises of damaged files


class Photos(Protocol):
    """One part of a dataset whose images are decoded one by one; pickles to workers.

    Attributes:
        labels: Classes from 0, int64, `(N,)`.
    """

    @property
    def labels(self) -> NDArray[np.int64]: ...  # noqa: D102 (above)

    def open(self, position: int, mode: str) -> Image.Image:
        """One photo, decoded, in Pillow's ``mode``.

        Raises:
            DataError: It is damaged; the line names it.
        """
        ...


@dataclass(frozen=True)
class FilePhotos:
    """Photos in files. Paths are kept as one array: workers would copy a list of strings by and by.

    Attributes:
        root: The folder.
        paths: Relative to it, as bytes.
        labels: See :class:`Photos`.
    """

    root: Path
    paths: NDArray[np.bytes_]
    labels: NDArray[np.int64]

    def open(self, position: int, mode: str) -> Image.Image:
        """See :class:`Photos`."""
        path = self.root / os.fsdecode(self.paths[position])
        try:
            with Image.open(path) as file:
                return file.convert(mode)
        except UNREADABLE as error:
            raise unreadable(str(path), error) from error


def unreadable(name: str, error: Exception) -> DataError:
    """The error of a photo that cannot be decoded."""
    return DataError(f"{name}: cannot be read as an image ({error}); repair or remove it")


def fitted(image: Image.Image, size: int, box: Box | None = None) -> NDArray[np.uint8]:
    """A photo as a square: ``box`` of it, or the middle after its shorter side is scaled; bilinear, antialiased.

    Args:
        image: Grey or RGB.
        size: Pixels on each side.
        box: The part that is shown, of any shape; ``None`` for the largest square in the middle.

    Returns:
        `(size, size, C)`.
    """
    if box is not None:
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    elif image.size != (size, size):
        shorter = min(image.size)
        width, height = (max(size, round(side * size / shorter)) for side in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
    return np.asarray(image).reshape(size, size, -1)


def memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def fits(count: int, channels: int, size: int) -> bool:
    """Whether so many images may be held in memory: 0.4 of it, since splitting them takes a second copy."""
    return count * channels * size * size <= 0.4 * memory()


def check_memory(count: int, channels: int, size: int) -> None:
    """Refuses images that would not fit.

    Args:
        count: Images in all.
        channels: Of each image.
        size: Its height and width in pixels.

    Raises:
        DataError: They take more than 0.4 of the machine's memory.
    """
    if fits(count, channels, size):
        return
    needed, limit = count * channels * size * size, 0.4 * memory()
    fitting = int(size * (limit / needed) ** 0.5)
    raise DataError(f"dataset.image_size={size}: {count:,} images take {needed / 1e9:.1f} GB in memory, this machine "
                    f"can hold {limit / 1e9:.1f} GB; dataset.in_memory=null reads them from their files, or "
                    f"dataset.image_size={fitting} fits")  # fmt: skip
