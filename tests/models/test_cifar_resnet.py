import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdbench.core.errors import ConfigError
from kdbench.models.cifar_resnet import BasicBlock, CifarResNet

# depth: parameters with 10 and with 100 classes, MACs with 10
FIXTURES = {
    8: (78_042, 83_892, 12_501_632),
    14: (175_258, 181_108, 26_657_408),
    20: (272_474, 278_324, 40_813_184),
    26: (369_690, 375_540, 54_968_960),
    32: (466_906, 472_756, 69_124_736),
    44: (661_338, 667_188, 97_436_288),
    56: (855_770, 861_620, 125_747_840),
    110: (1_730_714, 1_736_564, 253_149_824),
}


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("depth", FIXTURES)
def test_cifar_resnet_has_the_published_parameters_and_macs(depth):
    network = CifarResNet(depth, num_classes=10).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    assert (_parameters(network), counter.get_total_flops() // 2) == FIXTURES[depth][::2]
    assert _parameters(CifarResNet(depth, num_classes=100)) == FIXTURES[depth][1]


@pytest.mark.parametrize(("depth", "parameters"), [(8, 1_233_540), (32, 7_433_860)])
def test_cifar_resnet_widths_make_the_x4_networks(depth, parameters):
    assert _parameters(CifarResNet(depth, num_classes=100, widths=[32, 64, 128, 256])) == parameters


def test_basic_block_adds_the_projected_input_before_its_last_relu():
    block = BasicBlock(2, 4, 2).eval()
    x = torch.randn(3, 2, 8, 8)
    inner = block.norm2(block.conv2(torch.relu(block.norm1(block.conv1(x)))))
    projection, norm = block.shortcut
    torch.testing.assert_close(block(x), torch.relu(inner + norm(projection(x))))
    assert isinstance(BasicBlock(4, 4, 1).shortcut, nn.Identity)


def test_cifar_resnet_convolutions_start_with_the_fan_out_deviation():
    network = CifarResNet(8, num_classes=10, widths=[64, 64, 128, 256])
    conv = network.stages[2][0].conv1  # 3x3, 128 to 256 channels
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.02)


@pytest.mark.parametrize("side", [8, 28, 64])
def test_cifar_resnet_takes_images_of_any_size(side):
    assert CifarResNet(8, num_classes=5, in_channels=1).eval()(torch.zeros(2, 1, side, side)).shape == (2, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 18}, "resnet18: the depth must be 6n \\+ 2; near it is 14"),
        ({"depth": 2}, "near it is 8"),
        ({"depth": 8, "widths": [16, 32, 64]}, "four numbers are needed"),
    ],
)
def test_cifar_resnet_refuses_what_it_cannot_build(arguments, message):
    with pytest.raises(ConfigError, match=message):
        CifarResNet(**arguments, num_classes=10)
