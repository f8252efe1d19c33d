"""The YAMLs of datasets compose as a command line chooses them."""

import pytest

from kdbench.config.compose import Composer
from kdbench.config.source import config_root
from kdbench.data.catalog import config_problems
from kdbench.data.corruption_options import OPTIONS

COMPOSER = Composer()
NAMES = sorted(path.stem for path in (config_root() / "dataset").glob("*.yaml"))
CORRUPTIONS = sorted(path.stem for path in (config_root() / "dataset" / "corruption").glob("*.yaml"))
CIFAR_LIKE = ("cifar10", "cifar100", "svhn", "stl10", "tiny_imagenet")


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_every_dataset_takes_every_corruption(name: str, corruption: str) -> None:
    config = COMPOSER.resolve((f"dataset={name}", f"dataset/corruption={corruption}"), ())["dataset"]
    assert config["name"] == config["reader"] == name
    assert config["corruption"].keys() - {"version"} == {"kind", *OPTIONS[corruption]}
    assert list(config_problems(config)) == []


def test_every_corruption_is_a_file() -> None:
    assert set(CORRUPTIONS) == set(OPTIONS)


@pytest.mark.parametrize("name", CIFAR_LIKE)
def test_cifar_s_protocol_comes_with_its_data(name: str) -> None:
    config = COMPOSER.resolve((f"dataset={name}",), ())
    assert (config["optim"]["lr"], config["optim"]["weight_decay"]) == (0.05, 5e-4)
    assert config["optim"]["schedule"] == {"kind": "steps", "milestones": [150, 180, 210], "gamma": 0.1}
    assert (config["trainer"]["max_epochs"], config["trainer"]["batch_size"]) == (240, 64)


def test_whoever_chooses_an_optimiser_gets_it() -> None:
    assert COMPOSER.resolve(("dataset=cifar100", "optim=cosine"), ())["optim"]["schedule"]["kind"] == "cosine"
    assert COMPOSER.resolve(("dataset=imagefolder",), ())["optim"]["schedule"]["kind"] == "one_cycle"
