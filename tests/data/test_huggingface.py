"""Hugging Face datasets from a cache or a folder of Parquet files; the package itself is an extra."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdbench.core.errors import DataError
from kdbench.data import huggingface
from kdbench.data.huggingface import open_table
from kdbench.data.load import load_data
from kdbench.data.stream import Stream


class Rows:
    """As much of ``datasets.Dataset`` as is asked of it."""

    def __init__(self, features: dict[str, Any], columns: dict[str, list[Any]]) -> None:
        self.features, self._columns = features, columns

    def __getitem__(self, key: Any) -> Any:
        return self._columns[key] if isinstance(key, str) else {name: own[key] for name, own in self._columns.items()}

    def cast_column(self, name: str, feature: Any) -> "Rows":
        assert feature.decode is False
        return self


class Encoded:
    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


Encoded.__name__ = "Image"


class ClassLabel:
    names = ("cat", "dog")


def photo(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 8), (number, 255 - number, 7)).save(file, "PNG")
    return file.getvalue()


def rows(count: int, labels: list[Any] | None = None, feature: Any = None) -> Rows:
    given = [number % 2 for number in range(count)] if labels is None else labels
    images = [{"bytes": photo(number), "path": None} for number in range(count)]
    return Rows({"img": Encoded(), "class": feature or ClassLabel()}, {"img": images, "class": given})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for the package ``datasets``; serves what is put into it, and keeps what it was asked."""
    splits: dict[str, Any] = {"train": rows(20), "test": rows(6)}
    config = SimpleNamespace(HF_HUB_OFFLINE=False)

    def load_dataset(repo: str, subset: str | None, revision: str | None) -> Any:
        splits["asked"] = (repo, subset, revision, config.HF_HUB_OFFLINE)
        if repo == "absent":
            raise ConnectionError("no such thing\nand more")
        return {name: part for name, part in splits.items() if name != "asked"}

    module = SimpleNamespace(load_dataset=load_dataset, Image=Encoded, config=config)
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr(huggingface.RowPhotos, "bytes", lambda self: [1] * len(self.labels))
    return splits


def test_both_parts_are_decoded_in_memory_and_streamed_alike(hub: Any, config_of: Any, tmp_path: Path) -> None:
    keys = {"repo": "animals@abc", "image_size": 8}
    held, streamed = (load_data(config_of("hf", in_memory=kept, **keys), tmp_path) for kept in (True, False))
    assert hub["asked"] == ("animals", None, "abc", True), "only the cache, never the network"
    assert (len(held.train), len(held.test), held.spec.class_names) == (18, 6, ("cat", "dog"))
    assert held.test.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert held.test.labels.tolist() == [0, 1] * 3
    assert isinstance(streamed.test.images, Stream)
    assert np.array_equal(streamed.test.images.take(streamed.test.index)[0], held.test.images)


def test_a_fifth_becomes_the_test_set_where_there_is_none(hub: Any, config_of: Any) -> None:
    del hub["test"]
    table = open_table(config_of("hf", repo="animals"), None)
    assert table.sizes == {"train": 16, "test": 4}
    assert sorted(table.test.labels) == [0, 0, 1, 1]
    assert not {*table.train.positions} & {*table.test.positions}


def test_names_of_classes_may_stand_in_the_rows(hub: Any, config_of: Any) -> None:
    hub["train"], hub["test"] = (rows(4, ["b", "a", "b", "c"], feature="string") for _ in range(2))
    table = open_table(config_of("hf", repo="animals"), None)
    assert (table.classes, table.train.labels.tolist()) == (("a", "b", "c"), [1, 0, 1, 2])


def test_what_cannot_be_meant_is_one_line_each(hub: Any, config_of: Any) -> None:
    def refused(line: str, **keys: Any) -> None:
        with pytest.raises(DataError, match=line) as error:
            open_table(config_of("hf", **keys), None)
        assert len(str(error.value).splitlines()) == 1

    refused(r"which one\? dataset\.repo=NAME")
    refused(r"not in the cache \(no such thing\); type kdbench data fetch hf dataset\.repo=absent", repo="absent")
    refused(r"dataset\.image_column=imgs: .*did you mean 'img'", repo="x", image_column="imgs")
    refused(r"dataset\.test_split=tets: .*did you mean 'test'", repo="x", test_split="tets")
    hub["validation"] = rows(4)
    refused(r"has test and validation; say which", repo="x")
    hub["test"] = rows(4, [-1] * 4)
    refused(r"4 of 4 images have no class", repo="x", test_split="test")


def test_without_the_package_the_line_says_how_to_get_it(config_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'kdbench\[huggingface\]'"):
        open_table(config_of("hf", repo="animals"), None)


def test_a_damaged_row_is_named(hub: Any, config_of: Any) -> None:
    hub["test"]["img"][3]["bytes"] = b"no image"
    table = open_table(config_of("hf", repo="animals"), None)
    with pytest.raises(DataError, match="row 3 of img: cannot be read as an image"):
        table.test.open(3, "RGB")


def test_a_folder_of_parquet_files_is_read_by_the_package_itself(
    tmp_path: Path, config_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    (tmp_path / "data").mkdir()
    for part, count in (("train", 20), ("test", 6)):
        columns = {"image": [{"bytes": photo(n), "path": None} for n in range(count)], "label": [0, 1] * (count // 2)}
        datasets.Dataset.from_dict(columns, features).to_parquet(tmp_path / "data" / f"{part}-00000-of-00001.parquet")
    data = load_data(config_of("hf", root=str(tmp_path / "data"), image_size=8), tmp_path)
    assert data.test.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    table = open_table(config_of("hf"), tmp_path / "data")
    assert table.test.bytes() == [len(photo(n)) for n in range(6)]
    assert len(table.manifest()) == 64
