"""Every ``configs/model/*.yaml``: its comment, its target, and that its defaults are those of the code."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from torch import nn

from kdbench.core.targets import check_arguments, resolve_target
from kdbench.models import create_network

FOLDER = Path(__file__).parents[2] / "configs" / "model"
FROM_DATA = {"num_classes": 10, "in_channels": 3, "image_size": (32, 32)}
# Members of a family that differ from the code's default, which is that of the others.
VARIANTS = {"resnet8x4": ["widths"], "resnet32x4": ["widths"], "plain2_narrow": ["widths"]}
FILES = [path for path in sorted(FOLDER.glob("*.yaml")) if yaml.safe_load(path.read_text()).get("_target_")]


def _options(path):
    config = yaml.safe_load(path.read_text())
    target = resolve_target(config.pop("_target_"), base=nn.Module)
    assert isinstance(config.pop("version"), int)
    return target, config


def test_every_network_of_the_benchmarks_has_its_config():
    assert {path.stem for path in FILES} >= {
        *(f"plain{size}" for size in (2, 4, 6, 8, 10)),
        *(f"resnet{depth}" for depth in (8, 14, 20, 26, 32, 44, 56, 110)),
        *("resnet8x4", "resnet32x4", "wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2", "vgg8", "vgg13", "ResNet50"),
        *("MobileNetV2", "ShuffleV1", "ShuffleV2", "ShuffleV2x1.5", "resnet34", "densenet_bc_100_12"),
    }


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_config_opens_with_a_comment_and_has_a_version(path):
    text = path.read_text()
    assert text.startswith("# ")
    assert yaml.safe_load(text)["version"] >= 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_names_every_option_with_the_codes_default(path):
    target, options = _options(path)
    parameters = inspect.signature(target).parameters
    check_arguments(target, options | {key: value for key, value in FROM_DATA.items() if key in parameters}, where="x")
    for name, parameter in parameters.items():
        if name in FROM_DATA:
            assert name not in options
        elif parameter.default is not parameter.empty:
            default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
            assert (options[name] == default) == (name not in VARIANTS.get(path.stem, ()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_builds_a_network_that_tells_its_stages_and_its_head(path, make_data):
    network = create_network(yaml.safe_load(path.read_text()), make_data(), name=path.stem, seed=0)
    assert {"stage1", "pooled", "logits"} <= network.taps.keys()
    assert network.head


def test_importing_models_imports_no_library_of_networks():
    code = "import sys, kdbench.models; sys.exit(bool({'timm', 'torchvision', 'huggingface_hub'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
