"""What a dataset's YAML leaves open because only the files tell: sizes, classes, identity. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.core.errors import ConfigError
from kdbench.core.recipe import canonical
from kdbench.data.albums import ALBUMS, SOURCE_KEYS
from kdbench.data.catalog import config_problems, locate
from kdbench.data.cifar import read_cifar
from kdbench.data.fashion_mnist import read_fashion_mnist
from kdbench.data.labelled import TrainTest, checksum
from kdbench.data.stl10 import read_stl10
from kdbench.data.svhn import read_svhn

COUNTED: Mapping[str, Callable[[Mapping[str, Any], Path | None], TrainTest]] = {  # readers whose sizes are counted
    "cifar10": read_cifar,
    "cifar100": read_cifar,
    "svhn": read_svhn,
    "stl10": read_stl10,
    "fashion_mnist": read_fashion_mnist,
}


class Survey(NamedTuple):
    """What was found.

    Attributes:
        sizes: Images in each part.
        checksum: SHA-256 of pixels and classes; of photos, of their manifest.
        class_names: Known for photos; else empty.
    """

    sizes: dict[str, int]
    checksum: str
    class_names: tuple[str, ...]


def survey(config: Mapping[str, Any], folder: Path | None) -> Survey:
    """Reads, or of photos lists, a dataset; once per process, for all jobs of a sweep.

    Args:
        config: The dataset's.
        folder: Of its files; ``None`` for what a library keeps.

    Raises:
        DataError: Files are damaged.
    """
    return read_survey(canonical({key: config.get(key) for key in SOURCE_KEYS}), folder)


@lru_cache(maxsize=16)
def read_survey(text: str, folder: Path | None) -> Survey:
    """:func:`survey` of the keys that choose files, as JSON."""
    config = json.loads(text)
    if (reader := config["reader"]) in ALBUMS:
        album = ALBUMS[reader](config, folder)
        return Survey(album.sizes, album.manifest(), album.classes)
    parts = COUNTED[reader](config, folder)
    return Survey({"train": len(parts[0].labels), "test": len(parts[1].labels)}, checksum(parts), ())


def complete(config: Mapping[str, Any], data_dir: Path) -> dict[str, Any]:
    """The config with ``sizes``, ``checksum`` and ``num_classes`` filled in where they are ``null`` and can be counted.

    Networks are known by the digest of the completed config: data of other content or length make other networks.

    Args:
        config: A dataset's resolved YAML; may be complete already.
        data_dir: ``paths.data``.

    Raises:
        ConfigError: A value is out of its range.
        DataError: The files are absent or damaged.
    """
    if problems := list(config_problems(config)):
        raise ConfigError(problems)
    wanted = [key for key in ("sizes", "checksum", "num_classes") if config[key] is None]
    if not wanted or config["reader"] not in {*COUNTED, *ALBUMS}:
        return dict(config)
    found = survey(config, locate(config["reader"], config["root"], data_dir))
    values = {"sizes": found.sizes, "checksum": found.checksum, "num_classes": len(found.class_names) or None}
    return {**config, **{key: values[key] for key in wanted}}
