import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdbench.core.errors import DataError
from kdbench.data.cifar import read_cifar, read_pickle


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("binary", [False, True])
def test_what_was_written_is_read(name: str, binary: bool, tmp_path: Path, write_cifar: Any) -> None:
    written = write_cifar(tmp_path / "x", name, binary=binary)
    for read, part in zip(read_cifar({"reader": name}, tmp_path / "x"), written, strict=True):
        assert np.array_equal(read.images, part.images)
        assert read.labels.tolist() == part.labels.tolist()
        assert (read.images.dtype, read.labels.dtype) == (np.uint8, np.int64)


def test_the_files_of_the_test_are_those_of_python_2(tmp_path: Path, write_cifar: Any) -> None:
    write_cifar(tmp_path / "x", "cifar100")
    opcodes = {opcode.name for opcode, _, _ in pickletools.genops((tmp_path / "x" / "train").read_bytes())}
    assert {"SHORT_BINSTRING", "BINSTRING", "GLOBAL", "BUILD"} <= opcodes
    assert "SHORT_BINBYTES" not in opcodes


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_files_written_again_by_python_3_are_read(protocol: int, tmp_path: Path) -> None:
    rows = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)
    for name in ("train", "test"):
        (tmp_path / name).write_bytes(pickle.dumps({b"data": rows, b"fine_labels": [3, 99]}, protocol=protocol))
    train, _ = read_cifar({"reader": "cifar100"}, tmp_path)
    assert np.array_equal(train.images.reshape(2, -1), rows)
    assert train.labels.tolist() == [3, 99]


class _Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


class _Loads:
    def __reduce__(self) -> Any:
        return np.load, ("x.npy", None, True)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    for payload in (_Runs(tmp_path / "made"), _Loads(), np.array([{}], dtype=object)):
        (tmp_path / "train").write_bytes(pickle.dumps({"data": payload}))
        with pytest.raises(DataError, match=r"it asks for|an array of object"):
            read_pickle(tmp_path / "train")
    assert not (tmp_path / "made").exists()


def test_a_file_cut_short_is_an_error_naming_it(tmp_path: Path, write_cifar: Any) -> None:
    write_cifar(tmp_path / "x", "cifar100")
    path = tmp_path / "x" / "train"
    raw = path.read_bytes()
    for keep in (0, 1, 50, 1000, len(raw) - 1):
        path.write_bytes(raw[:keep])
        with pytest.raises(DataError, match=f"{path}: "):
            read_cifar({"reader": "cifar100"}, tmp_path / "x")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1], "not a CIFAR batch"),
        ({"data": [1]}, "no data and labels"),
        ({"data": np.zeros((2, 3072), np.uint8)}, "no data and labels"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, "1 labels but data of shape"),
        ({"data": np.zeros((1, 1024), np.uint8), "labels": [1]}, "1 labels but data of shape"),
    ],
)
def test_a_pickle_of_something_else_is_an_error(batch: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "train").write_bytes(pickle.dumps(batch))
    with pytest.raises(DataError, match=message):
        read_cifar({"reader": "cifar100"}, tmp_path)


def test_a_binary_file_of_broken_records_is_an_error(tmp_path: Path, write_cifar: Any) -> None:
    write_cifar(tmp_path / "x", "cifar10", binary=True)
    path = tmp_path / "x" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_3\.bin: .* no whole number of records of 3073"):
        read_cifar({"reader": "cifar10"}, tmp_path / "x")


def test_bytes_that_are_no_pickle_never_escape_as_another_error(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        raw = io.BytesIO(b"\x80\x02" + generator.bytes(40)).getvalue()
        (tmp_path / "train").write_bytes(raw)
        with pytest.raises(DataError):
            read_pickle(tmp_path / "train")
