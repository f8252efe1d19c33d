"""Samples that an evaluation reads beside those it measures on: of another split, or another dataset made to fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from kdbench.config.compose import Composer
from kdbench.core.errors import ConfigError, nearest
from kdbench.core.types import DataSpec
from kdbench.data.load import DataSplits, ImageSplit, load_data
from kdbench.data.stream import Stream
from kdbench.metrics.base import Samples


def read_samples(wanted: Samples, own: DataSplits, data_dir: Path, *, where: str) -> ImageSplit:
    """The samples that are asked for, in the shape that the network takes.

    Args:
        wanted: A split of the network's dataset or of another one.
        own: The network's dataset.
        data_dir: ``paths.data``.
        where: The option that named the dataset, for the error line.

    Raises:
        ConfigError: There is no such dataset, or its images cannot get the network's channels.
        DataError: Its files are absent or damaged.
    """
    data = own if wanted.dataset is None else load_data(_config(wanted, own.spec, where), data_dir)
    split = data.train if wanted.split == "train" else data.test
    if isinstance(split.images, Stream):  # decoded in the colours that are asked for, whole photos
        return replace(split, images=replace(split.images, channels=own.spec.input_shape[0], crop=None))
    return replace(split, images=_with_channels(split.images, own.spec.input_shape[0], where))


def _config(wanted: Samples, spec: DataSpec, where: str) -> Mapping[str, Any]:
    composer = Composer()
    if wanted.dataset not in (options := composer.options("dataset")):
        raise ConfigError(f"{where}={wanted.dataset}: there is no such dataset{nearest(str(wanted.dataset), options)}")
    config = composer.resolve((f"dataset={wanted.dataset}",), ())["dataset"]
    return {**config, "image_size": spec.input_shape[1], "root": wanted.root}


def _with_channels(images: Tensor, channels: int, where: str) -> Tensor:
    """Grey to colour by repetition, colour to grey by the mean; uint8 `(N, C, H, W)` as before."""
    if (given := images.shape[1]) == channels:
        return images
    if given == 1:
        return images.expand(-1, channels, -1, -1)
    if channels == 1:
        return images.float().mean(dim=1, keepdim=True).round().byte()
    raise ConfigError(
        f"{where}: its images have {given} channels, the network takes {channels}; choose another dataset"
    )
