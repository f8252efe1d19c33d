"""What a dataset's config means and where its files are. Needs no torch, so the plan can be made without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdbench.core.errors import ConfigError, DataError, nearest
from kdbench.core.types import DataSpec
from kdbench.data.class_names import CLASS_NAMES
from kdbench.data.corruption_options import corruption_problems, kept_size
from kdbench.data.sources import SOURCES, Layout
from kdbench.data.view_options import augment_problems

# Where pixels lie says nothing about weights; the budget enters on its own, the padding with the views that use it.
IDENTITY_EXCLUDES = ("root", "in_memory", "budget", "padding")
KEYS = (  # of every dataset's YAML, beside those
    "name",
    "reader",
    "version",
    "num_classes",
    "channels",
    "image_size",
    "sizes",
    "checksum",
    "val_fraction",
    "split_seed",
    "train_size",
    "fraction",
    "corruption",
    "augment",
    "view_seed",
    "mean",
    "std",
)


def places(reader: str, root: str | None, data_dir: Path) -> Iterator[tuple[Path, Layout]]:
    """Where the files of a reader may lie, each place with the form that would be found there, best first.

    Args:
        reader: One of :data:`kdbench.data.sources.SOURCES`.
        root: The user's folder; the only place looked in if given, as such or with a usual layout below it.
        data_dir: ``paths.data``, looked in before the system's places.
    """
    source = SOURCES[reader]
    base = (data_dir if root is None else Path(root)).expanduser()
    for layout in source.layouts:
        if root is not None:
            yield base, layout
        yield from ((base / folder, layout) for folder in layout.folders)
    if root is None:
        yield from ((Path(folder), source.layouts[0]) for folder in source.system)


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
    if source.any_folder or (source.hub and root is not None):
        return _any_folder(reader, root)
    if not source.layouts:
        return None
    looked: dict[Path, str] = {}
    for folder, layout in places(reader, root, data_dir):
        missing = [name for name in layout.files if layout.find(folder, name) is None]
        if not missing:
            return folder
        partly = f" (lacks {', '.join(missing)})" if len(missing) < len(layout.files) else ""
        looked[folder] = looked.get(folder) or partly
    places_text = ", ".join(f"{path}{partly}" for path, partly in looked.items())
    ways = [source.hint, f"type kdbench data fetch {reader}" if source.archives else ""]
    raise DataError(
        f"dataset {reader}: files not found; looked in {places_text}; {', or '.join(filter(None, ways))}, "
        f"or name their folder with dataset.root=FOLDER, or its parent with paths.data=FOLDER (KDBENCH_DATA)"
    )


def _any_folder(reader: str, root: str | None) -> Path:
    if root is None:
        raise DataError(f"dataset {reader}: which folder? dataset.root=FOLDER with train/CLASS/... and test/ or val/, "
                        f"or with CLASS/...")  # fmt: skip
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"dataset.root={root}: no such folder")
    return folder


def held_out(config: Mapping[str, Any]) -> tuple[int, int]:
    """Sizes of the training and the validation set, before corruption.

    Returns:
        Images kept for training after ``val_fraction``, ``train_size`` and ``fraction``; images for validation.
    """
    total = int(config["sizes"]["train"])
    val = round(config["val_fraction"] * total)
    rest = total - val
    if config["train_size"] is not None:
        return int(config["train_size"]), val
    return rest if config["fraction"] is None else round(config["fraction"] * rest), val


def describe(config: Mapping[str, Any]) -> DataSpec:
    """What networks must know of a dataset, from its config alone.

    ``mean`` and ``std`` are empty where the config leaves them ``null``: only loading the pixels gives them. So are the
    sizes 0 where they are counted (:func:`kdbench.data.survey.complete`). With ``corruption=imbalance`` the training
    size is that of equally large classes, which is what the plan needs; the loaded data know it exactly.

    Raises:
        ConfigError: A value is out of its range; every wrong one has its line.
    """
    if problems := list(config_problems(config)):
        raise ConfigError(problems)
    if config["num_classes"] is None:
        raise ConfigError(f"dataset {config['name']}: give dataset.num_classes; it is counted in trainings only")
    size, classes = int(config["image_size"]), int(config["num_classes"])
    names = CLASS_NAMES.get(config["reader"], ())
    known = config["sizes"] is not None
    return DataSpec(
        name=str(config["name"]),
        num_classes=classes,
        input_shape=(int(config["channels"]), size, size),
        mean=tuple(map(float, config["mean"] or ())),
        std=tuple(map(float, config["std"] or ())),
        class_names=names if len(names) == classes else (),
        train_size=kept_size(config["corruption"], held_out(config)[0], classes) if known else 0,
        index_size=int(config["sizes"]["train"]) if known else 0,
    )


def config_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a dataset's config, one line each; nothing is read."""
    config = {"augment": None, **config}  # Hydra leaves the key out where the list of views is empty
    if missing := [key for key in KEYS if key not in config]:
        yield f"dataset {config.get('name', '')}: its YAML lacks {', '.join(missing)}; see configs/dataset/cifar10.yaml"
        return
    if config["reader"] not in SOURCES:
        yield f"dataset.reader={config['reader']}: unknown{nearest(str(config['reader']), SOURCES)}"
    elif "resized_crop" in (config["augment"] or {}) and not SOURCES[config["reader"]].photos:
        yield f"dataset.augment=resized_crop: {config['name']} is no set of whole photos; take crop_flip"
    for key, least in (("num_classes", 2), ("channels", 1), ("image_size", 1)):
        counted = key == "num_classes" and config[key] is None
        if not counted and not (isinstance(config[key], int) and config[key] >= least):
            yield f"dataset.{key}={config[key]}: must be {least} or more"
    for part, size in (config["sizes"] or {}).items():
        if size < 1:
            yield f"dataset.sizes.{part}={size}: must be 1 or more"
    for key in ("mean", "std"):
        if config[key] is not None and len(config[key]) != config["channels"]:
            yield f"dataset.{key}={config[key]}: needs one number per channel ({config['channels']}), or null"
    yield from corruption_problems(config["corruption"], config["num_classes"])
    yield from augment_problems(config["augment"])
    yield from _size_problems(config)


def _size_problems(config: Mapping[str, Any]) -> Iterator[str]:
    fraction, size, val_fraction = config["fraction"], config["train_size"], config["val_fraction"]
    wrong = False
    if not 0 <= val_fraction < 1:
        yield f"dataset.val_fraction={val_fraction}: must be in [0, 1)"
        wrong = True
    if fraction is not None and not (isinstance(fraction, int | float) and 0 < fraction <= 1):
        yield f"dataset.fraction={fraction}: must be in (0, 1]"
        wrong = True
    if size is not None and not isinstance(size, int):
        yield f"dataset.train_size={size}: a whole number is expected"
        wrong = True
    if fraction is not None and size is not None:
        yield f"dataset.fraction={fraction} and dataset.train_size={size} both say what is kept; give one"
        wrong = True
    if wrong or not config["sizes"]:
        return
    train, val = held_out(config)
    most = config["sizes"]["train"] - val
    if val_fraction > 0 and val == 0:
        yield f"dataset.val_fraction={val_fraction}: selects no image; 0 means no validation set"
    if most < 1:
        yield f"dataset.val_fraction={val_fraction}: 0 images are left to train on"
    elif fraction is not None and train < 1:
        yield f"dataset.fraction={fraction}: keeps none of the {most} images that are left to train on"
    elif not 1 <= train <= most:
        yield f"dataset.train_size={size}: must be in [1, {most}], {most} images are left to train on"


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
