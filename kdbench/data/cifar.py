"""CIFAR-10 and CIFAR-100 in both published forms. Nothing in the files is executed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.core.errors import DataError
from kdbench.data.labelled import Labelled, TrainTest

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_FILES = {  # training and test files of the Python form; the binary ones end in .bin
    "cifar10": (tuple(f"data_batch_{number}" for number in range(1, 6)), ("test_batch",)),
    "cifar100": (("train",), ("test",)),
}
_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")  # NumPy's old and new names


class _ArrayUnpickler(pickle.Unpickler):
    """A pickle is a program; this one may build arrays and nothing else."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name in _MODULES and global_name in _ARRAYS:
            return _ARRAYS[global_name]
        if (module_name, global_name) == ("_codecs", "encode"):
            return _encode
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")


def _empty(kind: Any, shape: Any, code: Any) -> NDArray[Any]:
    """An array whose content the pickle sets next."""
    return np.empty(0, np.uint8)


def _dtype(code: bytes | str, *_: Any) -> np.dtype[Any]:
    """Numbers only: an array of objects could hold anything. NumPy's own constructor warns of what old files pass."""
    dtype = np.dtype(code.decode() if isinstance(code, bytes) else code)
    if dtype.kind not in "biuf":
        raise pickle.UnpicklingError(f"an array of {dtype}")
    return dtype


def _encode(text: str, _: Any = None) -> bytes:
    """Bytes, as Python 3 writes them in the older protocols."""
    return text.encode("latin1")


_ARRAYS = {"_reconstruct": _empty, "ndarray": np.ndarray, "dtype": _dtype}


def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle of bytes, numbers, lists and arrays.

    Raises:
        DataError: Damaged, or it asks for anything else, which is not run.
    """
    try:
        with path.open("rb") as file:
            found = _ArrayUnpickler(file, encoding="bytes").load()
    except Exception as error:  # bytes that are no pickle can fail in any way
        raise DataError(f"{path}: not a CIFAR batch, or damaged ({error}); get it again") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: not a CIFAR batch; get it again")
    return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in found.items()}


def _python_batch(path: Path) -> Labelled:
    batch = read_pickle(path)
    pixels, labels = batch.get("data"), batch.get("fine_labels", batch.get("labels"))
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or not labels:
        raise DataError(f"{path}: has no data and labels; get it again")
    if pixels.shape != (len(labels), _PIXELS):
        raise DataError(f"{path}: {len(labels)} labels but data of shape {pixels.shape}; get it again")
    return Labelled(pixels.reshape(-1, 3, _SIDE, _SIDE), np.asarray(labels, dtype=np.int64))


def _binary_batch(path: Path, label_bytes: int) -> Labelled:
    """Records of labels, the finest one last, and pixels."""
    raw = np.fromfile(path, dtype=np.uint8)
    record = label_bytes + _PIXELS
    if len(raw) == 0 or len(raw) % record:
        raise DataError(f"{path}: {len(raw)} bytes are no whole number of records of {record}; get it again")
    rows = raw.reshape(-1, record)
    images = np.ascontiguousarray(rows[:, label_bytes:]).reshape(-1, 3, _SIDE, _SIDE)
    return Labelled(images, rows[:, label_bytes - 1].astype(np.int64))


def read_cifar(config: Mapping[str, Any], folder: Path | None) -> TrainTest:
    """Training and test images; of CIFAR-100 the 100 fine classes.

    Args:
        config: The dataset's; its ``reader`` is ``cifar10`` or ``cifar100``.
        folder: With the files of one form; where both lie, the Python one is read.

    Raises:
        DataError: A file is damaged or of another format.

    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """
    assert folder is not None
    parts = []
    for names in _FILES[config["reader"]]:
        batches = [
            _python_batch(path)
            if (path := folder / name).is_file()
            else _binary_batch(folder / f"{name}.bin", 1 if config["reader"] == "cifar10" else 2)
            for name in names
        ]
        parts.append(Labelled(*map(np.concatenate, zip(*batches, strict=True))))
    return parts[0], parts[1]
