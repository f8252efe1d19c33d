"""STL-10 in its binary form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdbench.core.errors import DataError
from kdbench.data.labelled import Labelled, TrainTest

_SIDE = 96


def _part(folder: Path, name: str) -> Labelled:
    pixels = np.fromfile(folder / f"{name}_X.bin", dtype=np.uint8)
    labels = np.fromfile(folder / f"{name}_y.bin", dtype=np.uint8).astype(np.int64)
    if len(labels) == 0 or len(pixels) != len(labels) * 3 * _SIDE * _SIDE:
        raise DataError(f"{folder}: {name}_X.bin has {len(pixels)} bytes, not those of {len(labels)} images of "
                        f"3x{_SIDE}x{_SIDE}, the labels in {name}_y.bin; get them again")  # fmt: skip
    if labels.min() < 1:
        raise DataError(f"{folder / name}_y.bin: has a label 0, but they are counted from 1; get it again")
    columns_first = pixels.reshape(-1, 3, _SIDE, _SIDE)
    return Labelled(np.ascontiguousarray(columns_first.transpose(0, 1, 3, 2)), labels - 1)


def read_stl10(config: Mapping[str, Any], folder: Path | None) -> TrainTest:
    """The labelled training and test images. The unlabelled ones are not read.

    Raises:
        DataError: A file is damaged.

    Source: Coates, Lee and Ng 2011, "An analysis of single-layer networks in unsupervised feature learning".
    """
    assert folder is not None
    return _part(folder, "train"), _part(folder, "test")
