"""Readers: files, or nothing but a config, to NumPy arrays of pixels and classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from kdbench.core.seeds import derive_seed
from kdbench.data.counter import draw, fold, sample_keys
from kdbench.data.fashion_mnist import read_fashion_mnist
from kdbench.data.labelled import Labelled, TrainTest
from kdbench.data.splits import choose
from kdbench.data.survey import COUNTED

_BLOCK = 1024  # images made at a time: eight bytes are needed for each one drawn


def read_digits(config: Mapping[str, Any], folder: Path | None = None) -> TrainTest:
    """The 1,797 digits that come with kdbench, pixels stretched from 0..16 to 0..255.

    They have no official test set of their own: 20 % are chosen, stratified, the same for everybody.

    Source: Alpaydin and Kaynak 1998; see ``digits.md`` for origin and licence.
    """
    with resources.files("kdbench.data").joinpath("digits.npz").open("rb") as file, np.load(file) as stored:
        pixels, labels = stored["images"].astype(np.uint16), stored["labels"].astype(np.int64)
    images = ((pixels * 255 + 8) // 16).astype(np.uint8)[:, None]
    test = choose(labels, round(0.2 * len(labels)), seed=0, stream="digits/test")
    return Labelled(images[~test], labels[~test]), Labelled(images[test], labels[test])


def make_fake(config: Mapping[str, Any], folder: Path | None = None) -> TrainTest:
    r"""Random images with the shape, classes and sizes of ``config``, the same for everybody.

    .. math:: x = (p_y + u) / 2

    with a prototype :math:`p_y` of 2 by 2 random blocks per class :math:`y` and uniform noise :math:`u` per pixel, both
    in 0..255: so easy that a small network is far above chance after a dozen steps.
    """
    classes, channels, size = config["num_classes"], config["channels"], config["image_size"]
    patterns = _random_bytes("prototypes", classes, channels * 2 * 2).reshape(classes, channels, 2, 2)
    half = np.arange(size) * 2 // size
    prototypes = patterns[:, :, half[:, None], half]
    parts = []
    for part in ("train", "test"):
        labels = np.arange(config["sizes"][part], dtype=np.int64) % classes
        images = _random_bytes(part, len(labels), channels * size * size).reshape(len(labels), channels, size, size)
        for start in range(0, len(labels), _BLOCK):
            block = slice(start, start + _BLOCK)
            images[block] = (prototypes[labels[block]].astype(np.uint16) + images[block]) // 2
        parts.append(Labelled(images, labels))
    return parts[0], parts[1]


def _random_bytes(stream: str, rows: int, columns: int) -> NDArray[np.uint8]:
    found = np.empty((rows, columns), np.uint8)
    keys = sample_keys(derive_seed(0, "fake", stream), 0, torch.arange(rows))
    for start in range(0, rows, _BLOCK):
        block = fold(keys[start : start + _BLOCK, None], torch.arange(columns))
        found[start : start + _BLOCK] = draw(block, 0, 256).numpy()
    return found


Reader = Callable[[Mapping[str, Any], Path | None], TrainTest]
READERS: Mapping[str, Reader] = {
    "digits": read_digits,
    "fashion_mnist": read_fashion_mnist,
    "fake": make_fake,
    **COUNTED,
}


def resized(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Square images of another size, bilinear, with antialiasing where they shrink.

    Args:
        images: `(N, C, H, W)`.
        size: New height and width in pixels; images that have it already come back as they are.
    """
    if images.shape[2:] == (size, size):
        return images
    scaled = [
        interpolate(part.float(), size=(size, size), mode="bilinear", antialias=True).round_().clamp_(0, 255).byte()
        for part in torch.from_numpy(images.copy()).split(4096)  # in parts: floats take four times the memory
    ]
    return torch.cat(scaled).numpy()
