"""Fashion-MNIST's four idx files. Needs no torch: what a plan must know of files is read before torch is loaded."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.core.errors import DataError
from kdbench.data.labelled import Labelled, TrainTest
from kdbench.data.sources import FASHION_FILES, SOURCES


def read_idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """An array of bytes in the idx format of MNIST, plain or gzip.

    The file is two zero bytes, 8 (the type: uint8), the number of dimensions, each size as big-endian uint32, the data.

    Raises:
        DataError: Not of this format, of other dimensions, or cut short.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: damaged ({error}); get it again") from error
    start = 4 + 4 * dimensions
    if len(raw) < start or raw[:4] != bytes([0, 0, 8, dimensions]):
        raise DataError(f"{path}: not an idx file of uint8 in {dimensions} dimensions; get it again")
    shape = tuple(int(size) for size in np.frombuffer(raw, dtype=">u4", count=dimensions, offset=4))
    expected = int(np.prod(shape, dtype=np.int64))
    if len(raw) - start != expected:
        raise DataError(f"{path}: holds {len(raw) - start} bytes of data, its header says {expected}; get it again")
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)


def read_fashion_mnist(config: Mapping[str, Any], folder: Path | None = None) -> TrainTest:
    """Four idx files: images and labels of the training and of the test set.

    Raises:
        DataError: A file is damaged, or images and labels differ in number.

    Source: Xiao et al. 2017, arXiv:1708.07747.
    """
    assert folder is not None
    images_and_labels = []
    (layout,) = SOURCES["fashion_mnist"].layouts
    for number, name in enumerate(FASHION_FILES):
        path = layout.find(folder, name)
        assert path is not None, "locate() gave this folder because every file is there"
        images_and_labels.append(read_idx(path, dimensions=1 if number % 2 else 3))
    parts = []
    for images, labels in (images_and_labels[:2], images_and_labels[2:]):
        if len(images) != len(labels):
            raise DataError(f"{folder}: {len(images)} images but {len(labels)} labels; get the files again")
        parts.append(Labelled(images[:, None], labels.astype(np.int64)))
    return parts[0], parts[1]
