"""The networks of the CIFAR-100 benchmarks: sizes and taps as published, first weights, what they refuse."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import DataSpec
from kdbench.models import create_network, probe
from kdbench.models.densenet_bc import DenseNetBC
from kdbench.models.four_stage_resnet import FourStageResNet
from kdbench.models.mobilenet_v2 import MobileNetV2
from kdbench.models.shufflenet_v1 import ShuffleNetV1
from kdbench.models.shufflenet_v2 import ShuffleNetV2
from kdbench.models.vgg import VGG
from kdbench.models.wrn import WideResNet

CONFIGS = Path(__file__).parents[2] / "configs" / "model"

# Parameters for 100 classes; channels and side of stem and stages at 32 pixels; width of what enters the classifier.
FIXTURES = {
    "resnet8x4": (1_233_540, [(32, 32), (64, 32), (128, 16), (256, 8)], 256),
    "resnet32x4": (7_433_860, [(32, 32), (64, 32), (128, 16), (256, 8)], 256),
    "wrn_16_1": (180_916, [(16, 32), (16, 32), (32, 16), (64, 8)], 64),
    "wrn_40_1": (569_780, [(16, 32), (16, 32), (32, 16), (64, 8)], 64),
    "wrn_16_2": (703_284, [(16, 32), (32, 32), (64, 16), (128, 8)], 128),
    "wrn_40_2": (2_255_156, [(16, 32), (32, 32), (64, 16), (128, 8)], 128),
    "vgg8": (3_965_028, [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)], 512),
    "vgg13": (9_462_180, [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)], 512),
    "ResNet50": (23_705_252, [(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)], 2048),
    "resnet34": (21_328_292, [(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)], 512),
    "MobileNetV2": (812_836, [(16, 16), (12, 16), (16, 8), (48, 4), (160, 2)], 1280),
    "ShuffleV1": (949_258, [(24, 32), (240, 16), (480, 8), (960, 4)], 960),
    "ShuffleV2": (1_355_528, [(24, 32), (116, 16), (232, 8), (464, 4)], 1024),
    "ShuffleV2x1.5": (2_580_548, [(24, 32), (176, 16), (352, 8), (704, 4)], 1024),
    "densenet_bc_100_12": (800_032, [(24, 32), (216, 32), (300, 16), (342, 8)], 342),
}

# One small network of each class, by its options; and the smallest image that it takes.
SMALL = {
    "wrn": ({"_target_": "kdbench.models.wrn.WideResNet", "depth": 10, "width": 1}, 1),
    "vgg": ({"_target_": "kdbench.models.vgg.VGG", "stages": [[4], [4], [4], [4], [4]]}, 8),
    "basic": (
        {
            "_target_": "kdbench.models.four_stage_resnet.FourStageResNet",
            "block": "basic",
            "blocks": [1, 1, 1, 1],
            "widths": [4, 4, 4, 4, 4],
        },
        1,
    ),
    "mobilenet": ({"_target_": "kdbench.models.mobilenet_v2.MobileNetV2", "width": 0.125}, 1),
    "shuffle1": (
        {"_target_": "kdbench.models.shufflenet_v1.ShuffleNetV1", "widths": [48, 72, 96], "groups": 3},
        1,
    ),
    "shuffle2": ({"_target_": "kdbench.models.shufflenet_v2.ShuffleNetV2", "widths": [4, 6, 8, 10]}, 1),
    "densenet": (
        {"_target_": "kdbench.models.densenet_bc.DenseNetBC", "depth": 10, "growth": 4, "reduction": 0.5},
        4,
    ),
}


@pytest.mark.parametrize("name", FIXTURES)
def test_network_has_the_published_parameters_and_tap_shapes(name):
    parameters, maps, pooled = FIXTURES[name]
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    data = DataSpec("cifar100", 100, (3, 32, 32), (0.5,) * 3, (0.25,) * 3)
    network = create_network(config, data, name=name, seed=0)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    expected = {"stem": (maps[0][0], maps[0][1], maps[0][1]), "pooled": (pooled,), "logits": (100,)}
    for number, (channels, side) in enumerate(maps[1:], start=1):
        expected[f"stage{number}"] = expected[f"stage{number}.preact"] = (channels, side, side)
    spec = probe(network, list(network.taps), data)
    shapes = dict(spec.shapes)
    assert shapes.pop("last_map")[0] == pooled
    assert shapes == expected
    assert spec.head is network.body.fc


@pytest.mark.parametrize("name", SMALL)
def test_network_adapts_to_channels_classes_and_size(name, make_data):
    config, smallest = SMALL[name]
    for side in {smallest, 28, 64}:
        network = create_network(config, make_data(side=side, num_classes=5, channels=1), name=name, seed=0).eval()
        assert network(torch.rand(2, 1, side, side)).shape == (2, 5)


@pytest.mark.parametrize("name", ["vgg", "densenet"])
def test_network_names_the_smallest_image_that_fits_when_one_is_too_small(name, make_data):
    config, smallest = SMALL[name]
    with pytest.raises(
        ConfigError, match=f"{name} does not take images of 3x3x3 .* {smallest}x{smallest} is the small"
    ):
        create_network(config, make_data(side=3), name=name, seed=0)


@pytest.mark.parametrize("name", ["wrn", "vgg", "basic", "mobilenet", "densenet"])
def test_convolutions_start_with_the_fan_out_deviation_and_no_bias(name, make_data):
    network = create_network(SMALL[name][0], make_data(), name=name, seed=0)
    scaled = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None or not module.bias.any()
            scaled.append(module.weight.flatten() * math.sqrt(module.kernel_size[0] ** 2 * module.out_channels / 2))
    assert torch.cat(scaled).std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", ["wrn", "vgg", "mobilenet", "densenet"])
def test_classifier_starts_without_bias(name, make_data):
    head = create_network(SMALL[name][0], make_data(num_classes=100), name=name, seed=0).body.fc
    assert not head.bias.any()
    if name in ("vgg", "mobilenet"):
        assert head.weight.std().item() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("name", ["shuffle1", "shuffle2"])
def test_shufflenets_start_at_pytorchs_defaults(name, make_data):
    conv = create_network(SMALL[name][0], make_data(), name=name, seed=0).body.stem.conv
    assert conv.weight.abs().max() <= 1 / math.sqrt(3)  # uniform within 1 / sqrt(fan-in)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: WideResNet(18, 1, num_classes=2), r"wrn: depth=18 must be 6n \+ 4; near it is 16"),
        (lambda: WideResNet(4, 1, num_classes=2), "near it is 10"),
        (lambda: WideResNet(16, 0, num_classes=2), "wrn: width=0, the factor on the channels must be at least 1"),
        (lambda: VGG([[4]] * 4, num_classes=2), "five lists of channels are needed"),
        (lambda: VGG([[4], [4], [], [4], [4]], num_classes=2), "none of them empty"),
        (
            lambda: FourStageResNet("bottelneck", [1] * 4, [4] * 5, num_classes=2),
            "block=bottelneck: unknown; did you mean 'bottleneck'",
        ),
        (
            lambda: FourStageResNet("basic", [1] * 3, [4] * 5, num_classes=2),
            r"blocks=\[1, 1, 1\], 4 positive numbers are needed: one for each stage",
        ),
        (lambda: FourStageResNet("basic", [1] * 4, [4] * 4, num_classes=2), "needed: stem and four stages"),
        (lambda: MobileNetV2(0.05, num_classes=2), "width=0.05 leaves a group without channels; 1/16 is the least"),
        (lambda: ShuffleNetV1([48, 72], 3, num_classes=2), "3 positive numbers are needed: one for each stage"),
        (lambda: ShuffleNetV1([48, 72, 100], 3, num_classes=2), "must be a multiple of 12"),
        (lambda: ShuffleNetV1([48, 48, 96], 3, num_classes=2), "what it adds to the one before"),
        (lambda: ShuffleNetV2([4, 6, 8], num_classes=2), "needed: three stages and the last convolution"),
        (lambda: ShuffleNetV2([4, 0, 8, 9], num_classes=2), "4 positive numbers"),
        (lambda: ShuffleNetV2([4, 7, 8, 9], num_classes=2), "those of the stages must be even"),
        (lambda: DenseNetBC(101, 12, 0.5, num_classes=2), r"DenseNet-BC: depth=101 must be 6n \+ 4; near it is 100"),
        (lambda: DenseNetBC(10, 12, 0.0, num_classes=2), r"reduction=0.0 in \(0, 1\]"),
        (lambda: DenseNetBC(10, 0, 0.5, num_classes=2), "growth=0 must be positive"),
    ],
)
def test_networks_refuse_what_they_cannot_build(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
