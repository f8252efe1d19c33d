import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from data_toy import images_of

from kdbench.core.errors import ConfigError, DataError
from kdbench.data.labelled import Labelled
from kdbench.data.stl10 import read_stl10
from kdbench.data.svhn import read_svhn


def write_stl10(folder: Path) -> tuple[Labelled, Labelled]:
    parts = images_of(20, 10, side=96), images_of(10, 10, side=96, seed=1)
    for name, part in zip(("train", "test"), parts, strict=True):
        (folder / f"{name}_X.bin").write_bytes(part.images.transpose(0, 1, 3, 2).tobytes())  # column by column
        (folder / f"{name}_y.bin").write_bytes((part.labels + 1).astype(np.uint8).tobytes())
    return parts


def test_stl10_is_read_upright_with_classes_from_zero(tmp_path: Path) -> None:
    written = write_stl10(tmp_path)
    for read, part in zip(read_stl10({}, tmp_path), written, strict=True):
        assert np.array_equal(read.images, part.images)
        assert read.labels.tolist() == part.labels.tolist()


def test_stl10_with_images_and_labels_of_other_numbers_is_an_error(tmp_path: Path) -> None:
    write_stl10(tmp_path)
    (tmp_path / "train_y.bin").write_bytes(b"\x01")
    with pytest.raises(DataError, match="not those of 1 images"):
        read_stl10({}, tmp_path)


def test_stl10_with_a_label_zero_is_an_error(tmp_path: Path) -> None:
    write_stl10(tmp_path)
    (tmp_path / "test_y.bin").write_bytes(bytes(10))
    with pytest.raises(DataError, match=r"test_y\.bin: has a label 0"):
        read_stl10({}, tmp_path)


@pytest.fixture
def parts() -> tuple[Labelled, Labelled]:
    return images_of(20, 10), images_of(10, 10, seed=1)


def stored(part: Labelled) -> dict[str, np.ndarray]:
    """As in the files: the sample last, the digit 0 as 10, labels in a column."""
    labels = np.where(part.labels == 0, 10, part.labels).astype(np.uint8)
    return {"X": part.images.transpose(2, 3, 1, 0), "y": labels[:, None]}


def check(folder: Path, parts: tuple[Labelled, Labelled]) -> None:
    for read, part in zip(read_svhn({}, folder), parts, strict=True):
        assert np.array_equal(read.images, part.images)
        assert read.labels.tolist() == part.labels.tolist()


def test_svhn_is_read_from_real_files(tmp_path: Path, parts: tuple[Labelled, Labelled]) -> None:
    io = pytest.importorskip("scipy.io")
    for name, part in zip(("train", "test"), parts, strict=True):
        io.savemat(tmp_path / f"{name}_32x32.mat", stored(part), do_compression=True)
    check(tmp_path, parts)
    (tmp_path / "test_32x32.mat").write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match=r"test_32x32\.mat: damaged"):
        read_svhn({}, tmp_path)


def test_svhn_is_turned_as_its_arrays_lie(monkeypatch: pytest.MonkeyPatch, parts: tuple[Labelled, Labelled]) -> None:
    stand_in = ModuleType("scipy.io")
    stand_in.loadmat = lambda path: stored(parts["test" in path.name])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "scipy", ModuleType("scipy"))
    monkeypatch.setitem(sys.modules, "scipy.io", stand_in)
    check(Path("nowhere"), parts)


def test_svhn_without_scipy_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ConfigError, match="pip install scipy"):
        read_svhn({}, tmp_path)
