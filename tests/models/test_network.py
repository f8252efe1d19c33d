from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.core.taps import TapReader
from kdbench.core.types import Tap
from kdbench.models.cifar_resnet import CifarResNet
from kdbench.models.network import Network, find_head
from kdbench.models.plain_cnn import PlainCNN


def _wrap(body: nn.Module, **options) -> Network:
    return Network(body, name="net", num_classes=10, **({"mean": [0.5], "std": [0.25], "taps": {}} | options))


def test_network_normalises_pixels_by_its_own_statistics():
    network = _wrap(nn.Flatten(), mean=[0.5, 0.25], std=[0.5, 0.125])
    pixels = torch.tensor([[[[1.0]], [[0.5]]]])
    torch.testing.assert_close(network(pixels), torch.tensor([[1.0, 2.0]]))


def test_network_statistics_follow_its_state():
    assert {"mean", "std"} <= _wrap(nn.Flatten()).state_dict().keys()


@pytest.mark.parametrize("body", [CifarResNet(8, num_classes=10), PlainCNN(2, num_classes=10)], ids=["resnet", "plain"])
def test_network_gives_the_same_logits_in_channels_last(body):
    network = _wrap(body, mean=[0.5] * 3, std=[0.25] * 3).eval()
    pixels = torch.rand(2, 3, 32, 32)
    expected = network(pixels)
    actual = network.to(memory_format=torch.channels_last)(pixels.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_network_taps_lie_within_it_and_name_the_classifiers_two_sides():
    network = _wrap(CifarResNet(8, num_classes=10), taps={"stem": Tap("act")}, heads=["fc"])
    assert network.taps == {
        "stem": Tap("body.act"),
        "last_map": Tap("body.pool", "input"),
        "pooled": Tap("body.fc", "input"),
        "logits": Tap("body"),
    }
    assert network.head == "body.fc"


def test_network_of_unknown_head_has_no_pooled_tap():
    network = _wrap(nn.Flatten())
    assert network.head is None
    assert network.taps == {"logits": Tap("body")}


@pytest.mark.parametrize(
    "body", [CifarResNet(14, num_classes=10), PlainCNN(6, num_classes=10)], ids=["resnet", "plain"]
)
def test_preactivation_taps_are_read_before_the_last_relu_of_each_stage(body):
    network = _wrap(body, mean=[0.5] * 3, std=[0.25] * 3, taps=body.taps).train()
    reader = TapReader(network, list(network.taps))
    features = reader(torch.rand(4, 3, 32, 32)).features
    for stage in ("stage1", "stage2", "stage3"):
        before = features[f"{stage}.preact"]
        assert before.min() < 0
        torch.testing.assert_close(before.relu(), features[stage])


def test_network_unwraps_an_output_that_names_its_logits():
    class Named(nn.Module):
        def forward(self, x):
            return SimpleNamespace(logits=x.flatten(1))

    assert _wrap(Named())(torch.rand(2, 1, 2, 2)).shape == (2, 4)


def test_network_refuses_a_body_that_returns_a_tuple():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(ConfigError, match="net: its forward returns a tuple, logits"):
        _wrap(Pair())(torch.rand(2, 1, 2, 2))


def test_head_is_the_last_linear_module_with_as_many_outputs_as_classes():
    assert find_head(nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 10), nn.Softplus()), 10) == "2"
    assert find_head(nn.Sequential(nn.Linear(4, 10)), 5) is None
    assert find_head(nn.Sequential(nn.Linear(4, 10), nn.BatchNorm1d(10)), 10) is None
    assert find_head(nn.Flatten(), 10) is None
