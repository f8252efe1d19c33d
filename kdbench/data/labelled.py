"""Images with their classes, as every reader gives them. Needs no torch."""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Labelled(NamedTuple):
    """Images with their classes.

    Attributes:
        images: Pixels, uint8, `(N, C, H, W)`.
        labels: Classes from 0, int64, `(N,)`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


TrainTest = tuple[Labelled, Labelled]


def checksum(parts: TrainTest) -> str:
    """SHA-256 over images and labels (little-endian int64) of the training and the test set, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for images, labels in parts:
        digest.update(np.ascontiguousarray(images).data)
        digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()
