"""Street View House Numbers, cropped digits, in MATLAB files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdbench.core.errors import ConfigError, DataError
from kdbench.data.labelled import Labelled, TrainTest


def _part(path: Path) -> Labelled:
    try:
        from scipy.io import loadmat  # pyright: ignore[reportMissingImports] (an extra)
    except ModuleNotFoundError as error:  # beside torchmetrics it makes every start slower, so it is no dependency
        raise ConfigError("dataset svhn: reading .mat files needs SciPy; pip install scipy") from error
    try:
        stored = loadmat(path)
        images = np.ascontiguousarray(stored["X"].transpose(3, 2, 0, 1))
        labels = stored["y"].reshape(-1).astype(np.int64)
    except Exception as error:  # bytes that are no such file can fail in any way
        raise DataError(f"{path}: damaged, or not of SVHN ({error}); get it again") from error
    if images.dtype != np.uint8 or len(images) != len(labels):
        raise DataError(f"{path}: {len(images)} images of {images.dtype} but {len(labels)} labels; get it again")
    return Labelled(images, labels % 10)  # the digit 0 is stored as 10


def read_svhn(config: Mapping[str, Any], folder: Path | None) -> TrainTest:
    """Training and test images; the additional 531,131 easy ones are not read.

    Raises:
        ConfigError: SciPy is not installed.
        DataError: A file is damaged.

    Source: Netzer et al. 2011, "Reading digits in natural images with unsupervised feature learning".
    """
    assert folder is not None
    return _part(folder / "train_32x32.mat"), _part(folder / "test_32x32.mat")
