"""Folders of images, one subfolder per class: what lies in them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdbench.core.errors import DataError
from kdbench.core.recipe import digest_of
from kdbench.data.photos import FilePhotos

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's
TEST_FOLDERS = ("test", "val")
_TEST_SHARE = 0.2  # of a folder that has no test set

Files = tuple[tuple[str, int], ...]  # paths relative to the root, with their classes


@dataclass(frozen=True)
class Listing:
    """What lies in a folder.

    Attributes:
        root: The folder.
        classes: Names of the classes, sorted.
        train: Training images.
        test: Test images.
    """

    root: Path
    classes: tuple[str, ...]
    train: Files
    test: Files

    @property
    def sizes(self) -> dict[str, int]:
        """Images in each part."""
        return {"train": len(self.train), "test": len(self.test)}

    def manifest(self) -> str:
        """SHA-256 over the classes and every image's part, path, class and size in bytes; not over the pixels."""
        entries = [[[path, label, (self.root / path).stat().st_size] for path, label in files]
                   for files in (self.train, self.test)]  # fmt: skip
        return digest_of([self.classes, *entries])

    def photos(self) -> tuple[FilePhotos, FilePhotos]:
        """The training and the test images, to be decoded."""
        train, test = (
            FilePhotos(
                self.root, np.array([os.fsencode(path) for path, _ in files]), np.array([own for _, own in files])
            )
            for files in (self.train, self.test)
        )
        return train, test


def _classes(folder: Path) -> tuple[str, ...]:
    names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    if not names:
        raise DataError(f"{folder}: has no subfolders; one per class is expected")
    return tuple(sorted(names))


def _images(root: Path, part: str, classes: tuple[str, ...]) -> Files:
    """The images below each class's folder, in the order of their paths."""
    found: list[tuple[str, int]] = []
    for label, name in enumerate(classes):
        folder = root / part / name
        paths = sorted(path.relative_to(root).as_posix() for path in (folder.rglob("*") if folder.is_dir() else ())
                       if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))  # fmt: skip
        found += [(path, label) for path in paths]
    return tuple(found)


def held_out_files(files: Files) -> tuple[Files, Files]:
    """A training and a test set of one folder: of each class the 20 % whose paths have the lowest SHA-256."""
    test: set[str] = set()
    for label in {label for _, label in files}:
        paths = sorted((path for path, own in files if own == label),
                       key=lambda path: hashlib.sha256(path.encode()).digest())  # fmt: skip
        test.update(paths[: round(_TEST_SHARE * len(paths))])
    return tuple(file for file in files if file[0] not in test), tuple(file for file in files if file[0] in test)


def list_folder(config: Mapping[str, Any], root: Path) -> Listing:
    """Lists ``train/CLASS/...`` with ``test/`` or ``val/``, or ``CLASS/...``, of which 20 % become the test set.

    Args:
        config: The dataset's; ``test_folder`` says which part is the test set where both are there.
        root: The folder.

    Raises:
        DataError: There are no classes, no images, a class without images to train on, or both a ``test`` and a ``val``
            folder and nobody has said which is the test set.
    """
    if not (root / "train").is_dir():
        if there := [name for name in TEST_FOLDERS if (root / name).is_dir()]:
            raise DataError(f"{root}: has {there[0]}/ but no train/")
        classes = _classes(root)
        train, test = held_out_files(_images(root, "", classes))
    else:
        classes = _classes(root / "train")
        train = _images(root, "train", classes)
        if part := _test_folder(config["test_folder"], root):
            if unknown := sorted({*_classes(root / part)} - {*classes}):
                raise DataError(f"{root / part}: no such class in train/: {', '.join(unknown)}")
            test = _images(root, part, classes)
        else:
            train, test = held_out_files(train)
    if not train or not test:
        raise DataError(f"{root}: {len(train)} images to train on and {len(test)} to test on ({', '.join(SUFFIXES)})")
    if empty := {*range(len(classes))} - {label for _, label in train}:
        raise DataError(f"{root}: no images to train on of {', '.join(classes[label] for label in sorted(empty))}; "
                        "add some, or remove the folder")  # fmt: skip
    return Listing(root, classes, train, test)


def _test_folder(chosen: str | None, root: Path) -> str | None:
    there = [name for name in TEST_FOLDERS if (root / name).is_dir()]
    if chosen is not None:
        if not (root / chosen).is_dir():
            raise DataError(f"dataset.test_folder={chosen}: no such folder in {root}")
        return chosen
    if len(there) > 1:
        raise DataError(f"{root}: has {' and '.join(there)}; say which is the test set, dataset.test_folder=test "
                        f"(the validation set is held out of train/ by dataset.val_fraction)")  # fmt: skip
    return there[0] if there else None


def list_tiny_imagenet(config: Mapping[str, Any], root: Path) -> Listing:
    """Lists the published folder: ``train/WNID/images/`` and ``val/images/`` with ``val/val_annotations.txt``.

    The published test set has no labels, so the validation set is the test set, as in the literature. Classes are in
    the order of their WordNet IDs, as in checkpoints trained on folders elsewhere.

    Raises:
        DataError: An annotation names an unknown class or an absent image.

    Source: Le and Yang 2015, "Tiny ImageNet visual recognition challenge".
    """
    ids = _classes(root / "train")
    labels = {name: label for label, name in enumerate(ids)}
    test = []
    for line in (root / "val" / "val_annotations.txt").read_text().splitlines():
        image, name, *_ = [*line.split("\t"), ""]
        path = f"val/images/{image}"
        if name not in labels or not (root / path).is_file():
            raise DataError(f"{root}/val/val_annotations.txt: {image} of class {name!r} is not there; get it again")
        test.append((path, labels[name]))
    words = dict(line.split("\t", 1) for line in (root / "words.txt").read_text().splitlines() if "\t" in line)
    names = tuple(words.get(name, name).split(",")[0] for name in ids)
    return Listing(root, names, _images(root, "train", ids), tuple(sorted(test)))


LISTERS = {"imagefolder": list_folder, "imagenet": list_folder, "tiny_imagenet": list_tiny_imagenet}
