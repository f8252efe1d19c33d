import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kdbench.core.errors import ConfigError
from kdbench.models.plain_cnn import PlainCNN

# size: parameters and MACs with 10 classes, then with 100
FIXTURES = {
    2: (13_082, 1_042_432, 215_172, 3_448_832),
    4: (37_338, 6_361_088, 475_652, 24_887_296),
    6: (82_778, 9_889_792, 1_107_204, 39_452_672),
    8: (327_962, 13_451_904, 1_246_276, 52_861_184),
    10: (2_487_850, 71_795_968, 2_931_460, 72_239_104),
}


@pytest.mark.parametrize("size", FIXTURES)
@pytest.mark.parametrize("num_classes", [10, 100])
def test_plain_cnn_has_the_published_parameters_and_macs(size, num_classes):
    network = PlainCNN(size, num_classes=num_classes).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    expected = FIXTURES[size][:2] if num_classes == 10 else FIXTURES[size][2:]
    assert (parameters, counter.get_total_flops() // 2) == expected


def test_plain_cnn_tells_stages_from_pools_and_puts_a_relu_after_each_convolution():
    network = PlainCNN(4, num_classes=10).eval()
    seen = []
    for stage in network.stages:
        stage.register_forward_hook(lambda _, args, output: seen.append((args[0].shape[-1], output)))
    with torch.no_grad():
        network(torch.randn(2, 3, 32, 32))
    assert [side for side, _ in seen] == [32, 16]
    assert [tuple(output.shape) for _, output in seen] == [(2, 16, 32, 32), (2, 32, 16, 16)]
    assert all(output.min() == 0 for _, output in seen)


def test_plain_cnn_takes_the_cifar100_widths_for_100_classes_only_unless_told():
    assert PlainCNN(2, num_classes=100).stages[0][0].conv.out_channels == 32
    assert PlainCNN(2, num_classes=20).stages[0][0].conv.out_channels == 16
    assert PlainCNN(2, num_classes=100, variant="cifar10").stages[0][0].conv.out_channels == 16


def test_plain_cnn_widths_replace_the_familys():
    network = PlainCNN(4, num_classes=10, in_channels=1, image_size=(8, 12), widths=[2, 3, 4, 5]).eval()
    convolutions = [unit.conv for stage in network.stages for unit in stage]
    assert [conv.out_channels for conv in convolutions] == [2, 3, 4, 5]
    assert convolutions[0].in_channels == 1
    assert network(torch.zeros(2, 1, 8, 12)).shape == (2, 10)


@pytest.mark.parametrize(
    ("variant", "size", "side"),
    [
        *zip(["cifar10"] * 5, FIXTURES, [4, 4, 8, 16, 16], strict=True),
        *zip(["cifar100"] * 5, FIXTURES, [4, 4, 4, 16, 16], strict=True),
    ],
)
def test_plain_cnn_takes_images_as_small_as_its_poolings_allow(variant, size, side):
    network = PlainCNN(size, num_classes=10, variant=variant, image_size=(side, side)).eval()
    assert network(torch.zeros(1, 3, side, side)).shape == (1, 10)
    with pytest.raises(ConfigError, match=f"at least {side}x{side}, here {side - 1}x{side}"):
        PlainCNN(size, num_classes=10, variant=variant, image_size=(side - 1, side))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"size": 8, "image_size": (8, 8)},
            "plain8 takes images of at least 16x16, here 8x8; plain2, plain4, plain6 can",
        ),
        ({"size": 2, "image_size": (2, 2)}, "no size of the family takes smaller than 4x4"),
        ({"size": 3}, "plain3: the family has the sizes 2, 4, 6, 8, 10"),
        ({"size": 2, "variant": "cifar20"}, "variant='cifar20', allowed are auto, cifar10, cifar100"),
        ({"size": 2, "widths": [4]}, "one positive number for each of 2 convolutions"),
        ({"size": 2, "widths": [4, 0]}, "one positive number"),
    ],
)
def test_plain_cnn_refuses_what_it_cannot_build(arguments, message):
    with pytest.raises(ConfigError, match=message):
        PlainCNN(**arguments, num_classes=10)
