import pytest
import torch
from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.core.taps import TapReader, expand_taps
from kdbench.core.types import ModelOutput, Tap


class Net(nn.Module):
    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 1)
        self.act = nn.ReLU(inplace=inplace)
        self.unused = nn.Linear(2, 2)
        self.shared = nn.Identity()
        self.head = nn.Linear(3, 2)
        self.taps = {"stage1": Tap("act"), "stage1.preact": Tap("act", "input")}

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.act(self.conv(x)))
        return self.head(self.shared(x).mean((2, 3)))


def test_reads_canonical_taps_and_module_paths() -> None:
    inputs = torch.randn(2, 1, 4, 4)
    net = Net()
    output = TapReader(net, ["stage1", "stage1.preact", "conv"])(inputs)
    assert torch.equal(output.logits, net(inputs))
    assert torch.equal(output.features["stage1"], output.features["conv"].relu())
    assert torch.equal(output.features["stage1.preact"], output.features["conv"])


def test_an_output_can_be_asked_about_other_inputs() -> None:
    inputs, net = torch.randn(2, 1, 4, 4), Net()
    output = TapReader(net, ["conv"])(torch.zeros(3, 1, 4, 4)).ask(inputs)
    torch.testing.assert_close(output.features["conv"], net.conv(inputs))
    with pytest.raises(NotImplementedError, match="no network stands behind this output"):
        ModelOutput(output.logits, {}).ask(inputs)


def test_hooks_are_gone_after_close() -> None:
    net = Net()
    reader = TapReader(net, ["conv"])
    reader.close()
    assert not net.conv._forward_hooks


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("stage2", "did you mean 'stage1'"),
        ("shared", "fired twice"),
        ("unused", "did not fire"),
    ],
)
def test_refuses_with_the_reason(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TapReader(Net(), [name])(torch.randn(2, 1, 4, 4))


def test_refuses_a_tensor_that_is_overwritten_in_place() -> None:
    with pytest.raises(ConfigError, match="overwritten in place"):
        TapReader(Net(inplace=True), ["conv"])(torch.randn(2, 1, 4, 4))


def test_a_second_forward_is_a_fresh_reading() -> None:
    reader = TapReader(Net(), ["conv"])
    one, two = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 4, 4)
    assert not torch.equal(reader(one).features["conv"], reader(two).features["conv"])


def test_a_forward_of_somebody_else_is_not_read() -> None:
    net = Net()
    reader = TapReader(net, ["conv"])
    inputs = torch.randn(1, 1, 4, 4)
    with torch.inference_mode():
        net(inputs)
        net(inputs)
    assert reader(inputs).features["conv"].requires_grad


def test_groups_stand_for_the_stages_that_a_network_has() -> None:
    net = Net()
    net.taps = {
        "stem": Tap("conv"),
        **{f"stage{number}": Tap("act") for number in (1, 2, 3)},
        "pooled": Tap("head", "input"),
    }
    assert expand_taps(net, ["stem", "stages", "pooled"]) == ("stem", "stage1", "stage2", "stage3", "pooled")
    assert expand_taps(net, ["stages.preact"]) == ("stage1.preact", "stage2.preact", "stage3.preact")
    assert expand_taps(net, ["last_stage"]) == ("stage3",)
