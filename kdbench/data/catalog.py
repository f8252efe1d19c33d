"""What a dataset's config means and where its files are. Needs no torch, so the plan can be made without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.core.errors import ConfigError, DataError, nearest
from kdbench.core.types import DataSpec

IDENTITY_EXCLUDES = ("root", "budget")  # where files lie says nothing about weights; the budget enters on its own
AUGMENTS = ("none", "crop_flip")


@dataclass(frozen=True)
class Source:
    """Where the files of a reader may be.

    Attributes:
        files: Names that must all be there, each plain or with ``.gz``; none for data that come with kdbench.
        folders: Places below ``paths.data``.
        system: Places where the operating system's packages put them.
        fix: How to get them, for the error line.
    """

    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    system: tuple[str, ...] = ()
    fix: str = ""


FASHION_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
SOURCES: Mapping[str, Source] = {
    "digits": Source(),
    "fake": Source(),
    "fashion_mnist": Source(
        files=FASHION_FILES,
        folders=("FashionMNIST/raw", "fashion_mnist"),  # the first is torchvision's
        system=("/usr/share/datasets/fashion-mnist",),
        fix="install the Debian package dataset-fashion-mnist, or put the four idx files (plain or .gz) there",
    ),
}


def find_file(folder: Path, name: str) -> Path | None:
    """``name`` or ``name.gz`` in ``folder``; ``None`` if neither is there."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _places(source: Source, root: str | None, data_dir: Path) -> Iterator[Path]:
    if root is not None:
        base = Path(root).expanduser()
        yield base
        yield from (base / folder for folder in source.folders)
        return
    yield from (data_dir.expanduser() / folder for folder in source.folders)
    yield from map(Path, source.system)


def locate(reader: str, root: str | None, data_dir: Path) -> Path | None:
    """The folder with a dataset's files.

    Args:
        reader: One of :data:`SOURCES`.
        root: The user's folder; the only place looked in if given, as such or with torchvision's layout below it.
        data_dir: ``paths.data``, looked in before the system's places.

    Returns:
        The first folder that has all files; ``None`` for data that need none.

    Raises:
        DataError: No place has all files; the line says where they were looked for and how to get them.
    """
    source = SOURCES[reader]
    if not source.files:
        return None
    looked = []
    for folder in _places(source, root, data_dir):
        missing = [name for name in source.files if find_file(folder, name) is None]
        if not missing:
            return folder
        partly = f" (lacks {', '.join(missing)})" if len(missing) < len(source.files) else ""
        looked.append(f"{folder}{partly}")
    raise DataError(
        f"dataset {reader}: files not found; looked in {', '.join(looked)}; {source.fix}, "
        f"or name their folder with dataset.root=FOLDER or its parent with paths.data=FOLDER (KDBENCH_DATA)"
    )


def held_out(config: Mapping[str, Any]) -> tuple[int, int]:
    """Sizes of the training and the validation set.

    Returns:
        Images kept for training after ``val_fraction`` and ``train_size``; images for validation.
    """
    total = int(config["sizes"]["train"])
    val = round(config["val_fraction"] * total)
    kept = config["train_size"]
    return total - val if kept is None else int(kept), val


def describe(config: Mapping[str, Any]) -> DataSpec:
    """What networks must know of a dataset, from its config alone.

    ``mean`` and ``std`` are empty where the config leaves them ``null``: only loading the pixels gives them.

    Raises:
        ConfigError: A value is out of its range; every wrong one has its line.
    """
    if problems := list(_problems(config)):
        raise ConfigError(problems)
    size = int(config["image_size"])
    return DataSpec(
        name=str(config["name"]),
        num_classes=int(config["num_classes"]),
        input_shape=(int(config["channels"]), size, size),
        mean=tuple(map(float, config["mean"] or ())),
        std=tuple(map(float, config["std"] or ())),
        train_size=held_out(config)[0],
        index_size=int(config["sizes"]["train"]),
    )


def _problems(config: Mapping[str, Any]) -> Iterator[str]:
    for key, names in (("reader", SOURCES), ("augment", AUGMENTS)):
        if config[key] not in names:
            yield f"dataset.{key}={config[key]}: unknown{nearest(str(config[key]), names)}"
    for key, least in (("num_classes", 2), ("channels", 1), ("image_size", 1), ("padding", 0)):
        if config[key] < least:
            yield f"dataset.{key}={config[key]}: must be {least} or more"
    for part, size in config["sizes"].items():
        if size < config["num_classes"]:
            yield f"dataset.sizes.{part}={size}: must be dataset.num_classes={config['num_classes']} or more"
    for key in ("mean", "std"):
        if config[key] is not None and len(config[key]) != config["channels"]:
            yield f"dataset.{key}={config[key]}: needs one number per channel ({config['channels']}), or null"
    if not 0 <= config["val_fraction"] < 1:
        yield f"dataset.val_fraction={config['val_fraction']}: must be in [0, 1)"
        return
    train, val = held_out(config)
    most = config["sizes"]["train"] - val
    if config["val_fraction"] > 0 and val == 0:
        yield f"dataset.val_fraction={config['val_fraction']}: selects no image; 0 means no validation set"
    if not 1 <= train <= most:
        yield f"dataset.train_size={config['train_size']}: must be in [1, {most}], {most} images are left to train on"


def steps_per_epoch(samples: int, batch_size: int, limit_batches: int | None = None) -> int:
    """Batches in an epoch. A last batch of one sample is left out: BatchNorm cannot normalise it.

    Args:
        samples: Training samples.
        batch_size: Samples per batch; at least 1.
        limit_batches: At most so many; ``None`` for all.

    Raises:
        ConfigError: Not one batch can be made.
    """
    if batch_size < 1:
        raise ConfigError(f"trainer.batch_size={batch_size}: must be 1 or more")
    full, rest = divmod(samples, batch_size)
    steps = full + (rest > 1)
    steps = steps if limit_batches is None else min(steps, limit_batches)
    if steps < 1:
        raise ConfigError(
            f"no batch to train on: {samples} training images, trainer.batch_size={batch_size}, "
            f"trainer.limit_train_batches={limit_batches}; make the batch smaller or the limit larger"
        )
    return steps
