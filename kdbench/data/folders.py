"""Folders of images, one subfolder per class: what lies in them, and their pixels at one size."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdbench.core.errors import DataError
from kdbench.core.recipe import digest_of
from kdbench.data.labelled import Labelled, TrainTest

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


def _held_out(files: Files) -> tuple[Files, Files]:
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
        DataError: There are no classes, no images, a class of the test set that is not trained on, or both a ``test``
            and a ``val`` folder and nobody has said which is the test set.
    """
    if not (root / "train").is_dir():
        if there := [name for name in TEST_FOLDERS if (root / name).is_dir()]:
            raise DataError(f"{root}: has {there[0]}/ but no train/")
        classes = _classes(root)
        train, test = _held_out(_images(root, "", classes))
    else:
        classes = _classes(root / "train")
        train = _images(root, "train", classes)
        if part := _test_folder(config["test_folder"], root):
            if unknown := sorted({*_classes(root / part)} - {*classes}):
                raise DataError(f"{root / part}: no such class in train/: {', '.join(unknown)}")
            test = _images(root, part, classes)
        else:
            train, test = _held_out(train)
    if not train or not test:
        raise DataError(f"{root}: {len(train)} images to train on and {len(test)} to test on ({', '.join(SUFFIXES)})")
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


def read_image(path: Path, channels: int, size: int) -> NDArray[np.uint8]:
    """One image, its shorter side scaled to ``size`` (bilinear, antialiased), the middle cut out.

    Args:
        path: Of any format that Pillow reads.
        channels: 3 for RGB, 1 for grey.
        size: Pixels.

    Returns:
        `(C, size, size)`.

    Raises:
        DataError: It cannot be decoded.
    """
    try:
        with Image.open(path) as file:
            image = file.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image ({error}); repair or remove it") from error
    if image.size != (size, size):
        shorter = min(image.size)
        width, height = (max(size, round(side * size / shorter)) for side in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)


def _pixels(root: Path, files: Files, channels: int, size: int) -> Labelled:
    images = np.empty((len(files), channels, size, size), np.uint8)

    def fill(position: int) -> None:
        images[position] = read_image(root / files[position][0], channels, size)

    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        for _ in pool.map(fill, range(len(files))):
            pass
    return Labelled(images, np.array([label for _, label in files], dtype=np.int64))


def memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(counts: Iterable[int], channels: int, size: int) -> None:
    """Refuses images that would not fit: they are decoded once and held, and splitting them takes a second copy.

    Args:
        counts: Images in each part.
        channels: Of each image.
        size: Its height and width in pixels.

    Raises:
        DataError: They take more than 0.4 of the machine's memory.
    """
    needed, limit = sum(counts) * channels * size * size, 0.4 * memory()
    if needed > limit:
        fitting = int(size * (limit / needed) ** 0.5)
        raise DataError(f"dataset.image_size={size}: {sum(counts):,} images take {needed / 1e9:.1f} GB in memory, "
                        f"this machine can hold {limit / 1e9:.1f} GB; dataset.image_size={fitting} fits")  # fmt: skip


LISTERS = {"imagefolder": list_folder, "tiny_imagenet": list_tiny_imagenet}


def read_folder(config: Mapping[str, Any], folder: Path | None) -> TrainTest:
    """The images of a listed folder, decoded into memory.

    Raises:
        DataError: An image is damaged, the folder is not as expected, or it does not fit into memory.
    """
    assert folder is not None
    listing = LISTERS[config["reader"]](config, folder)
    channels, size = config["channels"], config["image_size"]
    check_memory(listing.sizes.values(), channels, size)
    return _pixels(folder, listing.train, channels, size), _pixels(folder, listing.test, channels, size)
