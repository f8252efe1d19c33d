"""From a dataset's config to its splits, in memory or decoded as they are needed, once per process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdbench.core.errors import DataError
from kdbench.core.recipe import canonical, digest_of
from kdbench.core.types import DataSpec
from kdbench.data.albums import ALBUMS, is_streamed
from kdbench.data.arrays import READERS, resized
from kdbench.data.catalog import IDENTITY_EXCLUDES, describe, held_out, locate
from kdbench.data.corruption import corrupt
from kdbench.data.crop import ResizedCrop
from kdbench.data.labelled import checksum
from kdbench.data.photos import check_memory, fits
from kdbench.data.sharing import made_once
from kdbench.data.splits import choose
from kdbench.data.stream import Stream
from kdbench.data.survey import complete, survey

_STATISTICS = 10_000  # photos that mean and standard deviation are taken from: decoding all would cost an epoch
Images = NDArray[np.uint8] | Stream


class _Part(NamedTuple):
    """Images with their classes: a reader's, or photos that are still to be decoded."""

    images: Images
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class ImageSplit:
    """Images of one split. Shared by all trainings of a process: never written to.

    Attributes:
        images: Pixels, uint8, `(N, C, H, W)`, channels last in memory: as networks read them by default; or, of photos
            that do not fit, what decodes them.
        labels: Classes, int64, `(N,)`.
        index: Position of each image in the data set it was taken from, int64, `(N,)`, ascending; training and
            validation images count in the full training set.
    """

    images: Tensor | Stream
    labels: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> ImageSplit:
        """The same split on ``device``, where its images are in memory; itself if it is there already."""
        images = self.images if isinstance(self.images, Stream) else self.images.to(device)
        return ImageSplit(images, self.labels.to(device), self.index.to(device))


@dataclass(frozen=True)
class DataSplits:
    """A dataset, ready to train on; ``val`` is ``None`` where ``val_fraction`` is 0."""

    spec: DataSpec
    train: ImageSplit
    val: ImageSplit | None
    test: ImageSplit


def load_data(config: Mapping[str, Any], data_dir: Path, shared: Path | None = None) -> DataSplits:
    """The splits that ``config`` describes.

    Args:
        config: A dataset's resolved YAML, plain containers; completed by counting if it is not. ``in_memory`` says
            whether photos are decoded once and held, or anew in every epoch, with the same pixels; ``None`` holds
            what fits.
        data_dir: ``paths.data``.
        shared: A folder through which processes of one sweep share images in memory; ``None`` if there are no others.

    Returns:
        The very same object for equal configs and folders, so a chain loads its data once.

    Raises:
        ConfigError: A value of ``config`` is out of its range.
        DataError: The files are absent, damaged, or not the data that ``config`` describes.
    """
    config = complete(config, data_dir)
    describe(config)
    folder = locate(config["reader"], config["root"], data_dir)
    identity = {key: value for key, value in config.items() if key not in IDENTITY_EXCLUDES}
    return _load(canonical(identity), folder, config.get("in_memory"), shared)


@lru_cache(maxsize=4)
def _load(text: str, folder: Path | None, in_memory: bool | None, shared: Path | None) -> DataSplits:
    make = partial(_made, json.loads(text), folder, in_memory)
    if shared is None:
        return make()
    return made_once(shared / digest_of([text, str(folder), in_memory]), make)


def _made(config: Mapping[str, Any], folder: Path | None, in_memory: bool | None) -> DataSplits:
    train, test = _photos(config, folder, in_memory) if config["reader"] in ALBUMS else _pixels(config, folder)
    kept, val = held_out(config)
    in_val = choose(train.labels, val, seed=config["split_seed"], stream="val")
    rest = np.flatnonzero(~in_val)
    rest = rest[choose(train.labels[rest], kept, seed=config["split_seed"], stream="train_size")]
    labels, left = corrupt(train.labels[rest], config["corruption"], config["num_classes"])
    split = _split(_Part(train.images, _replaced(train.labels, rest, labels)), rest[left])
    spec = replace(
        _measured(describe(config), split, most=_STATISTICS if config["reader"] in ALBUMS else None),
        train_size=len(split),
        labels=_labels_by_index(split, len(train.labels)),
    )
    return DataSplits(
        spec=spec if spec.class_names else replace(spec, class_names=_album_names(config, folder)),
        train=split,
        val=_split(train, np.flatnonzero(in_val)) if val else None,
        test=_split(test, np.arange(len(test.labels))),
    )


def _pixels(config: Mapping[str, Any], folder: Path | None) -> tuple[_Part, _Part]:
    """Both parts of a dataset whose files hold arrays.

    Raises:
        DataError: They are other data than ``config`` names.
    """
    parts = READERS[config["reader"]](config, folder)
    _check(config, folder, parts, parts[0].images.shape[1], lambda: checksum(parts))
    train, test = (_Part(resized(part.images, config["image_size"]), part.labels) for part in parts)
    return train, test


def _photos(config: Mapping[str, Any], folder: Path | None, in_memory: bool | None) -> tuple[_Part, _Part]:
    """Both parts of a dataset of photos, decoded now if they are to be held in memory.

    Raises:
        DataError: A photo is damaged, they are other data than ``config`` names, or do not fit into memory.
    """
    album = ALBUMS[config["reader"]](config, folder)
    photos = album.photos()
    _check(config, folder, photos, config["channels"], lambda: survey(config, folder).checksum)
    size, channels, count = config["image_size"], config["channels"], sum(album.sizes.values())
    crop = config["augment"].get("resized_crop")
    crop = None if crop is None else ResizedCrop(area=crop["area"], aspect=crop["aspect"])
    streams = [Stream(each, np.arange(len(each.labels)), channels, size) for each in photos]
    train, test = (_Part(stream, stream.photos.labels) for stream in streams)
    if is_streamed(config, in_memory, fit=fits(count, channels, size)):
        return _Part(replace(streams[0], crop=crop), train.labels), test
    check_memory(count, channels, size)
    train, test = (_Part(stream.take(torch.arange(len(stream.positions)))[0].numpy(), stream.photos.labels)
                   for stream in streams)  # fmt: skip
    return train, test


class _Labels(Protocol):
    @property
    def labels(self) -> NDArray[np.int64]: ...


def _check(config: Mapping[str, Any], folder: Path | None, parts: Sequence[_Labels], channels: int,
           identity: Callable[[], str]) -> None:  # fmt: skip
    """Refuses data that are not those that the config, and so the digest of every network trained on them, names."""
    where = f"dataset {config['name']}" + ("" if folder is None else f" in {folder}")
    sizes = {"train": len(parts[0].labels), "test": len(parts[1].labels)}
    if sizes != config["sizes"]:
        raise DataError(f"{where}: dataset.sizes={config['sizes']}, but there are {sizes}")
    if channels != config["channels"]:
        raise DataError(f"{where}: dataset.channels={config['channels']}, but the images have {channels}")
    found = 1 + max(int(part.labels.max()) for part in parts)
    if found > config["num_classes"]:
        raise DataError(f"{where}: dataset.num_classes={config['num_classes']}, but there are {found} classes")
    if config["checksum"] is not None and identity() != config["checksum"]:
        raise DataError(
            f"{where}: other data than dataset.checksum={str(config['checksum'])[:8]}... names; get the original ones "
            f"again, or set dataset.checksum=null for data of your own"
        )


def _album_names(config: Mapping[str, Any], folder: Path | None) -> tuple[str, ...]:
    """The classes of photos, if the network has just as many."""
    if config["reader"] not in ALBUMS:
        return ()
    names = survey(config, folder).class_names
    return names if len(names) == config["num_classes"] else ()


def _replaced(labels: NDArray[np.int64], positions: NDArray[np.int64], new: NDArray[np.int64]) -> NDArray[np.int64]:
    changed = labels.copy()
    changed[positions] = new
    return changed


def _split(data: _Part, positions: NDArray[np.int64]) -> ImageSplit:
    if isinstance(data.images, Stream):
        images: Tensor | Stream = data.images.chosen(positions)
    else:
        images = torch.from_numpy(data.images.transpose(0, 2, 3, 1).take(positions, axis=0)).permute(0, 3, 1, 2)
    return ImageSplit(images, torch.from_numpy(data.labels[positions]), torch.from_numpy(positions))


def _labels_by_index(split: ImageSplit, index_size: int) -> Tensor:
    labels = torch.full((index_size,), -1)
    labels[split.index] = split.labels
    return labels


def _measured(spec: DataSpec, split: ImageSplit, *, most: int | None) -> DataSpec:
    """``spec`` with the statistics of the training pixels where the config left them open.

    From counts of the 256 pixel values, in integers and float64: the same on every machine. Of photos a stratified
    choice of ``most`` is counted, the same whether they are held in memory or not.
    """
    if spec.mean and spec.std:
        return spec
    images = split.images
    if most is not None and len(split) > most:
        chosen = torch.from_numpy(np.flatnonzero(choose(split.labels.numpy(), most, seed=0, stream="statistics")))
    else:
        chosen = torch.arange(len(split))
    parts = (images.take(part)[0] if isinstance(images, Stream) else images[part] for part in chosen.split(1000))
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.zeros(spec.input_shape[0], 256, dtype=torch.int64)
    for part in parts:
        counts += torch.stack([channel.flatten().bincount(minlength=256) for channel in part.unbind(1)])
    shares = counts / counts.sum(1, keepdim=True, dtype=torch.float64)
    mean = shares @ values
    std = (shares @ values.square() - mean.square()).sqrt()
    return replace(spec, mean=spec.mean or tuple(mean.tolist()), std=spec.std or tuple(std.tolist()))
