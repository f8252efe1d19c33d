import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kdbench.data.catalog import FASHION_FILES

Config = dict[str, Any]


@pytest.fixture
def config_of() -> Callable[..., Config]:
    """The YAML of a dataset with some keys replaced."""

    def read(name: str, **keys: Any) -> Config:
        path = Path(__file__).parents[2] / "configs" / "dataset" / f"{name}.yaml"
        config = yaml.safe_load(path.read_text())
        assert keys.keys() <= config.keys()
        return config | keys

    return read


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


@pytest.fixture
def write_fashion() -> Callable[..., None]:
    """Writes 40 training and 20 test images in the format of the real files."""

    def write(folder: Path, *, compressed: bool = True) -> None:
        folder.mkdir(parents=True)
        generator = np.random.default_rng(0)
        for name in FASHION_FILES:
            count = 40 if name.startswith("train") else 20
            images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
            data = idx_bytes(images if "images" in name else np.arange(count, dtype=np.uint8) % 10)
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)

    return write


@pytest.fixture
def small_fashion(config_of: Callable[..., Config]) -> Config:
    return config_of("fashion_mnist", sizes={"train": 40, "test": 20}, checksum=None)
