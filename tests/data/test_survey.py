from pathlib import Path
from typing import Any

import pytest

from kdbench.core.errors import ConfigError, DataError
from kdbench.core.recipe import digest_of
from kdbench.data.survey import complete


def test_sizes_and_content_of_cifar_are_counted(tmp_path: Path, config_of: Any, write_cifar: Any) -> None:
    found = []
    for binary in (False, True):
        write_cifar(tmp_path / str(binary), "cifar100", binary=binary)
        found.append(complete(config_of("cifar100", root=str(tmp_path / str(binary))), tmp_path))
    assert found[0]["sizes"] == {"train": 200, "test": 100}
    assert found[0]["num_classes"] == 100
    assert found[0]["checksum"] == found[1]["checksum"]


@pytest.mark.parametrize("other", [{"seed": 7}, {"train": 210}])
def test_other_data_have_another_identity(other: Any, tmp_path: Path, config_of: Any, write_cifar: Any) -> None:
    write_cifar(tmp_path / "a", "cifar10")
    write_cifar(tmp_path / "b", "cifar10", **other)
    one, two = (complete(config_of("cifar10", root=str(tmp_path / name)), tmp_path) for name in "ab")
    assert one["checksum"] != two["checksum"]


def test_where_the_data_lie_is_no_part_of_what_is_found(tmp_path: Path, config_of: Any, write_images: Any) -> None:
    digests = set()
    for name in "ab":
        write_images(tmp_path / name, "cat", "dog")
        completed = complete(config_of("imagefolder", root=str(tmp_path / name)), tmp_path)
        assert (completed["num_classes"], completed["sizes"]) == (2, {"train": 16, "test": 4})
        digests.add(digest_of({**completed, "root": None}))
    assert len(digests) == 1


def test_what_is_given_stays(tmp_path: Path, config_of: Any, write_images: Any) -> None:
    write_images(tmp_path, "cat", "dog")
    config = config_of("imagefolder", root=str(tmp_path), num_classes=5)
    completed = complete(config, tmp_path)
    assert completed["num_classes"] == 5
    assert complete(completed, Path("nowhere")) == completed


@pytest.mark.parametrize("name", ["digits", "fake", "fashion_mnist"])
def test_data_whose_yaml_says_all_are_not_looked_for(name: str, config_of: Any) -> None:
    assert complete(config_of(name), Path("nowhere")) == config_of(name)


def test_missing_files_and_wrong_values_are_errors(tmp_path: Path, config_of: Any) -> None:
    with pytest.raises(DataError, match="kdbench data fetch cifar10"):
        complete(config_of("cifar10"), tmp_path)
    with pytest.raises(ConfigError, match="image_size"):
        complete(config_of("cifar10", image_size=0), tmp_path)
