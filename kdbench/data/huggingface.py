"""Image datasets of the Hugging Face hub, and folders of Parquet files; decoded as folders of images are."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdbench.core.errors import DataError, nearest
from kdbench.core.recipe import digest_of
from kdbench.data.folders import held_out_files
from kdbench.data.photos import UNREADABLE, unreadable

_TEST_SPLITS = ("test", "validation")
_COLUMNS = {"image": ("Image", ("image", "img")), "label": ("ClassLabel", ("label", "labels", "class"))}
_INSTALL = "dataset hf needs the package datasets: pip install 'kdbench[huggingface]'"


@dataclass(frozen=True)
class RowPhotos:
    """Photos in the rows of a table; see :class:`kdbench.data.photos.Photos`.

    Attributes:
        rows: A ``datasets.Dataset`` that gives encoded images.
        column: Of the images.
        positions: Rows that belong to this part.
        labels: Their classes.
    """

    rows: Any
    column: str
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]

    def open(self, position: int, mode: str) -> Image.Image:
        """See :class:`kdbench.data.photos.Photos`."""
        row = int(self.positions[position])
        encoded = self.rows[row][self.column]
        try:
            with Image.open(io.BytesIO(encoded["bytes"]) if encoded["bytes"] else encoded["path"]) as file:
                return file.convert(mode)
        except UNREADABLE as error:
            raise unreadable(f"row {row} of {self.column}", error) from error

    def bytes(self) -> list[int]:
        """Size of each encoded image; none is read."""
        sizes = np.concatenate([_lengths(table, self.column) for table in
                                self.rows.with_format("arrow").iter(batch_size=10_000)])  # fmt: skip
        return sizes[self.positions].tolist()


@dataclass(frozen=True)
class Table:
    """A labelled dataset as :class:`kdbench.data.folders.Listing` describes a folder.

    Attributes:
        classes: Names of the classes.
        train: Training images.
        test: Test images.
    """

    classes: tuple[str, ...]
    train: RowPhotos
    test: RowPhotos

    @property
    def sizes(self) -> dict[str, int]:
        """Images in each part."""
        return {"train": len(self.train.labels), "test": len(self.test.labels)}

    def manifest(self) -> str:
        """SHA-256 over the classes and every image's part, class and size in bytes; not over the pixels."""
        return digest_of([self.classes, *([part.labels.tolist(), part.bytes()] for part in self.photos())])

    def photos(self) -> tuple[RowPhotos, RowPhotos]:
        """The training and the test images, to be decoded."""
        return self.train, self.test


def open_table(config: Mapping[str, Any], folder: Path | None) -> Table:
    """A dataset of the local cache or a folder of Parquet files; touches no network.

    Args:
        config: The dataset's: ``repo`` (``NAME`` or ``NAME@REVISION``), ``subset``, ``test_split``, ``image_column``
            and ``label_column``.
        folder: Parquet files, or a copy of a repository; ``None`` takes ``repo`` from the hub's cache.

    Raises:
        DataError: The package ``datasets`` or the data are not there, or hold no labelled images.
    """
    splits = _load(config, folder, offline=True)
    where = f"dataset {folder or config['repo']}"
    if "train" not in splits:
        raise DataError(f"{where}: has no split train{nearest('train', splits)}")
    rows = splits["train"]
    image = _column(rows, config, "image", where)
    label = _column(rows, config, "label", where)
    classes = _classes(rows, label)
    chosen = _test_split(config["test_split"], splits, where)
    train = _part(rows, image, label, classes, f"{where}, split train")
    if chosen is not None:
        return Table(classes, train, _part(splits[chosen], image, label, classes, f"{where}, split {chosen}"))
    files = tuple((str(row), int(own)) for row, own in enumerate(train.labels))
    parts = [np.array([int(row) for row, _ in part]) for part in held_out_files(files)]
    kept, test = (RowPhotos(train.rows, image, part, train.labels[part]) for part in parts)
    return Table(classes, kept, test)


def fetch_table(config: Mapping[str, Any]) -> None:
    """Downloads ``repo`` into the hub's cache.

    Raises:
        DataError: It cannot be had, or the package ``datasets`` is not there.
    """
    _load(config, None, offline=False)


def _load(config: Mapping[str, Any], folder: Path | None, *, offline: bool) -> Mapping[str, Any]:
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(_INSTALL) from error
    if folder is None and not config["repo"]:
        raise DataError(
            "dataset hf: which one? dataset.repo=NAME as on the hub, or dataset.root=FOLDER of Parquet files"
        )
    repo, _, revision = config["repo"].partition("@") if folder is None else (str(folder), "", "")
    try:
        with _offline(datasets, offline):
            return datasets.load_dataset(repo, config["subset"], revision=revision or None)
    except Exception as error:  # its readers raise almost anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if folder is not None:
            raise DataError(f"dataset.root={folder}: {reason}") from error
        subset = f" dataset.subset={config['subset']}" if config["subset"] else ""
        how = (f"type kdbench data fetch hf dataset.repo={config['repo']}{subset}, point HF_HOME at a cache that has "
               "it, or name a folder of its Parquet files with dataset.root=FOLDER")  # fmt: skip
        raise DataError(f"dataset {config['repo']}: {'not in the cache' if offline else 'cannot be had'} ({reason}); "
                        f"{how if offline else 'copy it from a machine that has it'}") from error  # fmt: skip


@contextmanager
def _offline(datasets: Any, offline: bool) -> Iterator[None]:
    """The library asks the hub, and waits, for what it has in its cache unless it is told not to."""
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = offline or before
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _column(rows: Any, config: Mapping[str, Any], kind: str, where: str) -> str:
    """The column that is named, or the only one that can be meant."""
    key, names = f"{kind}_column", list(rows.features)
    if (given := config[key]) is not None:
        if given not in names:
            raise DataError(f"dataset.{key}={given}: {where} has none{nearest(given, names)}")
        return given
    feature, usual = _COLUMNS[kind]
    found = [name for name in names if type(rows.features[name]).__name__ == feature]
    found = found or [name for name in names if name in usual]
    if len(found) != 1:
        raise DataError(f"{where}: which column has the {kind}s? dataset.{key}=NAME, of {', '.join(names)}")
    return found[0]


def _classes(rows: Any, column: str) -> tuple[str, ...]:
    if (names := getattr(rows.features[column], "names", None)) is not None:
        return tuple(names)
    found = sorted(set(rows[column]))
    return tuple(found) if isinstance(found[0], str) else tuple(map(str, range(int(found[-1]) + 1)))


def _test_split(chosen: str | None, splits: Mapping[str, Any], where: str) -> str | None:
    there = [name for name in _TEST_SPLITS if name in splits]
    if chosen is not None:
        if chosen not in splits:
            raise DataError(f"dataset.test_split={chosen}: {where} has none{nearest(chosen, splits)}")
        return chosen
    if len(there) > 1:
        raise DataError(f"{where}: has {' and '.join(there)}; say which is the test set, dataset.test_split=test "
                        f"(a validation set is held out of train by dataset.val_fraction)")  # fmt: skip
    return there[0] if there else None


def _part(rows: Any, image: str, label: str, classes: tuple[str, ...], where: str) -> RowPhotos:
    from datasets import Image as Encoded  # pyright: ignore[reportMissingImports]

    known = {name: number for number, name in enumerate(classes)}
    given = list(rows[label])
    labels = np.array([known.get(value, -1) if isinstance(value, str) else int(value) for value in given], np.int64)
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(classes):
        raise DataError(f"{where}: {int((labels < 0).sum())} of {len(labels)} images have no class that is trained on; "
                        "choose another with dataset.test_split or dataset.label_column")  # fmt: skip
    return RowPhotos(rows.cast_column(image, Encoded(decode=False)), image, np.arange(len(labels)), labels)


def _lengths(table: Any, column: str) -> NDArray[np.int64]:
    import pyarrow.compute as pc  # pyright: ignore[reportMissingImports]

    encoded = pc.struct_field(table.column(column), "bytes")
    return pc.fill_null(pc.binary_length(encoded), 0).to_numpy()
