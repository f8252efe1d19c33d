import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from data_toy import Server, images_of, python2_pickle
from PIL import Image

from kdbench.data.labelled import Labelled
from kdbench.data.sources import FASHION_FILES

Config = dict[str, Any]


@pytest.fixture
def config_of() -> Callable[..., Config]:
    """The YAML of a dataset with some keys replaced."""

    def read(name: str, **keys: Any) -> Config:
        path = Path(__file__).parents[2] / "configs" / "dataset" / f"{name}.yaml"
        config = yaml.safe_load(path.read_text()) | {"corruption": {"kind": "none"}, "augment": {"none": {}}}
        del config["defaults"]  # of Hydra; they choose corruption and views
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


@pytest.fixture
def write_cifar() -> Callable[..., tuple[Labelled, Labelled]]:
    """Writes small files in a published form; gives what is in them."""

    def write(folder: Path, name: str, *, binary: bool = False, train: int = 200, seed: int = 0) -> Any:
        folder.mkdir(parents=True)
        fine = name == "cifar100"
        parts = images_of(train, 100 if fine else 10, seed=seed), images_of(100, 100 if fine else 10, seed=seed + 1)
        names = (["train"], ["test"]) if fine else ([f"data_batch_{number}" for number in range(1, 6)], ["test_batch"])
        for part, files in zip(parts, names, strict=True):
            for file, positions in zip(files, np.array_split(np.arange(len(part.labels)), len(files)), strict=True):
                rows, labels = part.images[positions].reshape(len(positions), -1), part.labels[positions]
                if binary:
                    columns = [labels // 5, labels] if fine else [labels]
                    (folder / f"{file}.bin").write_bytes(np.column_stack([*columns, rows]).astype(np.uint8).tobytes())
                else:
                    keys = {"fine_labels": labels.tolist(), "coarse_labels": (labels // 5).tolist()}
                    batch = {"data": rows, **(keys if fine else {"labels": labels.tolist()})}
                    (folder / file).write_bytes(python2_pickle(batch))
        return parts

    return write


@pytest.fixture
def write_images() -> Callable[..., None]:
    """Writes ``count`` images of one colour per class into each class's folder."""

    def write(
        folder: Path, *classes: str, count: int = 10, suffix: str = ".png", size: tuple[int, int] = (8, 6)
    ) -> None:
        for number, name in enumerate(classes):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for image in range(count):
                colour = (60 * number, 255 - 60 * number, image)
                Image.new("RGB", (8, 6), colour).save(folder / name / f"{image:03}{suffix}")

    return write


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.close()
