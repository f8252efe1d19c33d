from pathlib import Path

import pytest
import timm
import torch
import yaml
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.core.targets import resolve_target
from kdbench.models import register_timm

CONFIGS = Path(__file__).parents[2] / "configs" / "model"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "module")


def _shapes(body):
    return {key: value.shape for key, value in body.state_dict().items()}


def test_timm_builds_our_networks_under_their_prefixed_names():
    register_timm()
    register_timm()  # a second time overwrites nothing, which timm would warn of
    network = timm.create_model("kdbench_resnet8", num_classes=7, in_chans=1).eval()
    assert network(torch.zeros(2, 1, 20, 20)).shape == (2, 7)
    assert timm.create_model("kdbench_plain4", img_size=8, widths=[2, 2, 3, 3]).eval()(
        torch.zeros(1, 3, 8, 8)
    ).shape == (1, 10)


def test_our_networks_have_no_published_weights():
    register_timm()
    with pytest.raises(ConfigError, match="kdbench_plain2: there are no published weights"):
        timm.create_model("kdbench_plain2", pretrained=True)


def test_timm_lists_exactly_the_networks_that_have_a_config():
    register_timm()
    assert set(timm.list_models("kdbench_*")) == {f"kdbench_{name.replace('.', '_')}" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_timm_builds_the_network_of_the_config(name):
    register_timm()
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    target = resolve_target(config.pop("_target_"), base=nn.Module)
    del config["version"]
    with torch.device("meta"):
        ours = target(**config, num_classes=100)
        other = timm.create_model(f"kdbench_{name.replace('.', '_')}", num_classes=100)
    assert type(other) is type(ours)
    assert _shapes(other) == _shapes(ours)
