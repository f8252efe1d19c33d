"""From a dataset's config to tensors in memory, once per process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdbench.core.errors import DataError
from kdbench.core.recipe import canonical
from kdbench.core.types import DataSpec
from kdbench.data.arrays import READERS, resized
from kdbench.data.catalog import IDENTITY_EXCLUDES, describe, held_out, locate
from kdbench.data.corruption import corrupt
from kdbench.data.folders import LISTERS
from kdbench.data.labelled import Labelled, TrainTest, checksum
from kdbench.data.splits import choose
from kdbench.data.survey import complete, survey


@dataclass(frozen=True)
class ImageSplit:
    """Images of one split. Shared by all trainings of a process: never written to.

    Attributes:
        images: Pixels, uint8, `(N, C, H, W)`, channels last in memory: as networks read them by default.
        labels: Classes, int64, `(N,)`.
        index: Position of each image in the data set it was taken from, int64, `(N,)`, ascending; training and
            validation images count in the full training set.
    """

    images: Tensor
    labels: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> ImageSplit:
        """The same split on ``device``; itself if it is there already."""
        return ImageSplit(self.images.to(device), self.labels.to(device), self.index.to(device))


@dataclass(frozen=True)
class DataSplits:
    """A dataset, ready to train on; ``val`` is ``None`` where ``val_fraction`` is 0."""

    spec: DataSpec
    train: ImageSplit
    val: ImageSplit | None
    test: ImageSplit


def load_data(config: Mapping[str, Any], data_dir: Path) -> DataSplits:
    """The splits that ``config`` describes.

    Args:
        config: A dataset's resolved YAML, plain containers; completed by counting if it is not.
        data_dir: ``paths.data``.

    Returns:
        The very same object for equal configs and folders, so a chain loads its data once.

    Raises:
        ConfigError: A value of ``config`` is out of its range.
        DataError: The files are absent, damaged, or not the data that ``config`` describes.
    """
    config = complete(config, data_dir)
    describe(config)
    folder = locate(config["reader"], config["root"], data_dir)
    return _load(canonical({key: value for key, value in config.items() if key not in IDENTITY_EXCLUDES}), folder)


@lru_cache(maxsize=4)
def _load(text: str, folder: Path | None) -> DataSplits:
    config = json.loads(text)
    parts = READERS[config["reader"]](config, folder)
    _check(config, folder, parts)
    train, test = (Labelled(resized(part.images, config["image_size"]), part.labels) for part in parts)
    kept, val = held_out(config)
    in_val = choose(train.labels, val, seed=config["split_seed"], stream="val")
    rest = np.flatnonzero(~in_val)
    rest = rest[choose(train.labels[rest], kept, seed=config["split_seed"], stream="train_size")]
    labels, left = corrupt(train.labels[rest], config["corruption"], config["num_classes"])
    split = _split(Labelled(train.images, _replaced(train.labels, rest, labels)), rest[left])
    spec = replace(
        _measured(describe(config), split.images),
        train_size=len(split),
        labels=_labels_by_index(split, len(train.labels)),
    )
    return DataSplits(
        spec=spec if spec.class_names else replace(spec, class_names=_folder_names(config, folder)),
        train=split,
        val=_split(train, np.flatnonzero(in_val)) if val else None,
        test=_split(test, np.arange(len(test.labels))),
    )


def _check(config: Mapping[str, Any], folder: Path | None, parts: TrainTest) -> None:
    """Refuses data that are not those that the config, and so the digest of every network trained on them, names."""
    where = f"dataset {config['name']}" + ("" if folder is None else f" in {folder}")
    sizes = {"train": len(parts[0].labels), "test": len(parts[1].labels)}
    if sizes != config["sizes"]:
        raise DataError(f"{where}: dataset.sizes={config['sizes']}, but there are {sizes}")
    if (channels := parts[0].images.shape[1]) != config["channels"]:
        raise DataError(f"{where}: dataset.channels={config['channels']}, but the images have {channels}")
    found = 1 + max(int(part.labels.max()) for part in parts)
    if found > config["num_classes"]:
        raise DataError(f"{where}: dataset.num_classes={config['num_classes']}, but there are {found} classes")
    if config["checksum"] is not None and _checksum(config, folder, parts) != config["checksum"]:
        raise DataError(
            f"{where}: other data than dataset.checksum={str(config['checksum'])[:8]}... names; get the original ones "
            f"again, or set dataset.checksum=null for data of your own"
        )


def _checksum(config: Mapping[str, Any], folder: Path | None, parts: TrainTest) -> str:
    if config["reader"] not in LISTERS:
        return checksum(parts)
    assert folder is not None
    return survey(config["reader"], folder, config["test_folder"]).checksum


def _folder_names(config: Mapping[str, Any], folder: Path | None) -> tuple[str, ...]:
    """The classes of a folder of images, if the network has just as many."""
    if config["reader"] not in LISTERS or folder is None:
        return ()
    names = survey(config["reader"], folder, config["test_folder"]).class_names
    return names if len(names) == config["num_classes"] else ()


def _replaced(labels: NDArray[np.int64], positions: NDArray[np.int64], new: NDArray[np.int64]) -> NDArray[np.int64]:
    changed = labels.copy()
    changed[positions] = new
    return changed


def _split(data: Labelled, positions: NDArray[np.int64]) -> ImageSplit:
    images = torch.from_numpy(data.images.transpose(0, 2, 3, 1).take(positions, axis=0)).permute(0, 3, 1, 2)
    return ImageSplit(images, torch.from_numpy(data.labels[positions]), torch.from_numpy(positions))


def _labels_by_index(split: ImageSplit, index_size: int) -> Tensor:
    labels = torch.full((index_size,), -1)
    labels[split.index] = split.labels
    return labels


def _measured(spec: DataSpec, images: Tensor) -> DataSpec:
    """``spec`` with the statistics of the training pixels where the config left them open.

    From counts of the 256 pixel values, in integers and float64: the same on every machine.
    """
    if spec.mean and spec.std:
        return spec
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([images[:, channel].flatten().bincount(minlength=256) for channel in range(images.shape[1])])
    shares = counts / counts.sum(1, keepdim=True, dtype=torch.float64)
    mean = shares @ values
    std = (shares @ values.square() - mean.square()).sqrt()
    return replace(spec, mean=spec.mean or tuple(mean.tolist()), std=spec.std or tuple(std.tolist()))
