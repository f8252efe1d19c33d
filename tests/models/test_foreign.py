"""Files of other projects load into our networks, which then compute what theirs did."""

from argparse import Namespace
from pathlib import Path

import pytest
import repdistiller_networks as theirs
import torch
import yaml
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.core.taps import TapReader
from kdbench.core.targets import resolve_target
from kdbench.models import classes_of, create_network, load_weights, read_checkpoint
from kdbench.models.foreign import translated

CONFIGS = Path(__file__).parents[2] / "configs" / "model"
STAGES = [[4], [6, 4], [4, 6], [5], [7, 8]]
BLOCKS, WIDTHS = [2, 1, 3, 1], [4, 4, 6, 8, 5]

# Their network with 7 classes, and our target with its options.
PAIRS = {
    "resnet": (
        lambda: theirs.ResNet([2, 2, 2], [4, 4, 6, 8], (3, 3), "downsample", "fc", 7),
        {"_target_": "cifar_resnet.CifarResNet", "depth": 14, "widths": [4, 4, 6, 8]},
    ),
    "resnet x4": (
        lambda: theirs.ResNet([1, 1, 1], [4, 8, 6, 8], (3, 3), "downsample", "fc", 7),
        {"_target_": "cifar_resnet.CifarResNet", "depth": 8, "widths": [4, 8, 6, 8]},
    ),
    "resnet50": (
        lambda: theirs.ResNet(BLOCKS, WIDTHS, (1, 3, 1), "shortcut", "linear", 7),
        {"_target_": "four_stage_resnet.FourStageResNet", "block": "bottleneck", "blocks": BLOCKS, "widths": WIDTHS},
    ),
    "resnet34": (
        lambda: theirs.ResNet(BLOCKS, WIDTHS, (3, 3), "shortcut", "linear", 7),
        {"_target_": "four_stage_resnet.FourStageResNet", "block": "basic", "blocks": BLOCKS, "widths": WIDTHS},
    ),
    "wrn_16_1": (lambda: theirs.WideResNet(16, 1, 7), {"_target_": "wrn.WideResNet", "depth": 16, "width": 1}),
    "wrn_16_2": (lambda: theirs.WideResNet(16, 2, 7), {"_target_": "wrn.WideResNet", "depth": 16, "width": 2}),
    "vgg": (lambda: theirs.VGG(STAGES, 7), {"_target_": "vgg.VGG", "stages": STAGES}),
    "mobilenet": (lambda: theirs.MobileNetV2(0.5, 7, True), {"_target_": "mobilenet_v2.MobileNetV2", "width": 0.5}),
    "mobilenet, bare head": (
        lambda: theirs.MobileNetV2(0.25, 7, False),
        {"_target_": "mobilenet_v2.MobileNetV2", "width": 0.25},
    ),
    "shufflenet v1": (
        lambda: theirs.ShuffleNet([48, 72, 96], 7, groups=3),
        {"_target_": "shufflenet_v1.ShuffleNetV1", "widths": [48, 72, 96], "groups": 3},
    ),
    "shufflenet v2": (
        lambda: theirs.ShuffleNet([8, 12, 20], 7, last=18),
        {"_target_": "shufflenet_v2.ShuffleNetV2", "widths": [8, 12, 20, 18]},
    ),
}


@pytest.fixture(params=PAIRS)
def pair(request, make_data):
    """Their network with weights and statistics that nothing cancels, and ours, which has others."""
    build, config = PAIRS[request.param]
    torch.manual_seed(1)
    network = build()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.running_var):
                nn.init.uniform_(value, 0.5, 1.5)
            for value in (module.bias, module.running_mean):
                nn.init.normal_(value, std=0.3)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    config = config | {"_target_": f"kdbench.models.{config['_target_']}"}
    return network, create_network(config, make_data(num_classes=7), name=request.param, seed=0)


def load(ours, network, path):
    torch.save({"epoch": 240, "model": network.state_dict(), "accuracy": torch.tensor(75.61)}, path)
    load_weights(ours, read_checkpoint(path), head="load")


@pytest.mark.parametrize("side", [32, 64])
def test_network_computes_what_the_published_definition_does_from_its_own_file(pair, side, tmp_path):
    network, ours = pair
    load(ours, network, tmp_path / "w.pth")
    network, ours = network.double().eval(), ours.double().eval()
    x = torch.rand(3, 3, side, side, dtype=torch.float64)
    features, preacts, logits = network((x - ours.mean) / ours.std)
    stages = [f"stage{number}" for number in range(1, len(preacts) + 1)]
    names = ["stem", *stages, *(f"{stage}.preact" for stage in stages)]
    assert set(names) == ours.taps.keys() - {"last_map", "pooled", "logits"}
    output = TapReader(ours, names)(x)
    torch.testing.assert_close(output.logits, logits)
    for name, expected in zip(names, [*features, *preacts], strict=True):
        torch.testing.assert_close(output.features[name], expected)


def test_gradient_is_that_of_the_published_definition(pair, tmp_path):
    network, ours = pair
    load(ours, network, tmp_path / "w.pth")
    network, ours = network.double(), ours.double()
    x = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
    network((first - ours.mean) / ours.std)[2].square().sum().backward()
    ours(second).square().sum().backward()
    torch.testing.assert_close(second.grad, first.grad)


def test_scripts_options_and_prefixes_around_the_weights_are_no_hindrance(pair, tmp_path):
    network, ours = pair
    options = Namespace(model="resnet8", lr_decay_epochs=[150, 180, 210], learning_rate=0.05)
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"opt": options, "model": state, "optimizer": {"state": {}}}, tmp_path / "resnet8_last.pth")
    state = read_checkpoint(tmp_path / "resnet8_last.pth")
    assert classes_of(state, ours) == 7
    load_weights(ours, state, head="load")


def test_foreign_head_of_other_classes_gives_way_to_a_new_one(pair):
    network, ours = pair
    state = network.state_dict()
    for name in list(state)[-2:]:
        state[name] = state[name][:3]
    with pytest.raises(ConfigError, match=r"fc.weight is \(3, .*a new head can be trained"):
        load_weights(ours, state, head="load")
    before = ours.body.fc.weight.clone()
    load_weights(ours, state, head="new")
    assert torch.equal(ours.body.fc.weight, before)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*[0-9].yaml")), ids=lambda path: path.stem)
def test_our_own_names_are_left_alone(path):
    config = yaml.safe_load(path.read_text())
    target = resolve_target(config.pop("_target_"), base=nn.Module)
    del config["version"]
    with torch.device("meta"):
        body = target(**config, num_classes=10)
    state = body.state_dict()
    assert list(translated(state, body)) == list(state)


@pytest.mark.parametrize("other", [theirs.WideResNet(22, 1, 7), theirs.VGG(STAGES, 7)], ids=["deeper", "vgg"])
def test_weights_of_another_published_network_are_refused(other, make_data):
    config = {"_target_": "kdbench.models.wrn.WideResNet", "depth": 16, "width": 1}
    ours = create_network(config, make_data(num_classes=7), name="wrn_16_1", seed=0)
    with pytest.raises(ConfigError, match="they are of another network"):
        load_weights(ours, other.state_dict(), head="load")
