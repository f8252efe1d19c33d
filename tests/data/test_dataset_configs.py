"""The YAMLs of datasets compose as a command line chooses them."""

import pytest

from kdbench.config.compose import Composer
from kdbench.config.source import config_root
from kdbench.data import view_options
from kdbench.data.catalog import config_problems
from kdbench.data.corruption_options import OPTIONS
from kdbench.data.sources import SOURCES

COMPOSER = Composer()
NAMES = sorted(path.stem for path in (config_root() / "dataset").glob("*.yaml"))
CORRUPTIONS = sorted(path.stem for path in (config_root() / "dataset" / "corruption").glob("*.yaml"))
AUGMENTS = sorted(path.stem for path in (config_root() / "dataset" / "augment").glob("*.yaml"))
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


@pytest.mark.parametrize("view", AUGMENTS)
@pytest.mark.parametrize("name", NAMES)
def test_every_dataset_takes_every_view(name: str, view: str) -> None:
    config = COMPOSER.resolve((f"dataset={name}", f"dataset/augment={view}"), ())["dataset"]
    assert {key: set(options) for key, options in config["augment"].items()} == {
        view: {"version", *view_options.OPTIONS[view]}
    }
    refused = view == "resized_crop" and not SOURCES[name].photos
    assert len(list(config_problems(config))) == refused


def test_every_view_is_a_file_and_one_line_above_it_says_so() -> None:
    assert set(AUGMENTS) == set(view_options.OPTIONS)
    for name in AUGMENTS:
        lines = (config_root() / "dataset" / "augment" / f"{name}.yaml").read_text().splitlines()
        assert lines[0] == f"# @package dataset.augment.{name}"
        assert lines[1].startswith("# ")


@pytest.mark.parametrize("name", CIFAR_LIKE)
def test_cifar_s_protocol_comes_with_its_data(name: str) -> None:
    config = COMPOSER.resolve((f"dataset={name}",), ())
    assert (config["optim"]["lr"], config["optim"]["weight_decay"]) == (0.05, 5e-4)
    assert config["optim"]["schedule"] == {"kind": "steps", "milestones": [150, 180, 210], "gamma": 0.1}
    assert (config["trainer"]["max_epochs"], config["trainer"]["batch_size"]) == (240, 64)


def test_whoever_chooses_an_optimiser_gets_it() -> None:
    assert COMPOSER.resolve(("dataset=cifar100", "optim=cosine"), ())["optim"]["schedule"]["kind"] == "cosine"
    assert COMPOSER.resolve(("dataset=imagefolder",), ())["optim"]["schedule"]["kind"] == "one_cycle"
