"""Networks are made cheaper to run, and stay the functions they were."""

import copy
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from kdbench.core.taps import TapReader, expand_taps
from kdbench.core.types import DataSpec
from kdbench.models.create import create_network
from kdbench.models.memory_traffic import is_library_code, optimize_for_inference, relus_in_place, set_in_place
from kdbench.models.network import Network
from kdbench.runner import Trainer
from tests.toy import Quiet, recipes, settings

SPEC = DataSpec("fake", 10, (3, 32, 32), (0.5,) * 3, (0.25,) * 3)
NETWORKS = {  # BatchNorms that run directly behind a convolution that nothing else reads
    "plain": ({"_target_": "kdbench.models.plain_cnn.PlainCNN", "size": 4}, 4),
    "resnet": ({"_target_": "kdbench.models.cifar_resnet.CifarResNet", "depth": 14}, 15),
    "wrn": ({"_target_": "kdbench.models.wrn.WideResNet", "depth": 16, "width": 1}, 6),
    "torchvision": (
        {"_target_": "torchvision.models.get_model", "model_name": "resnet18", "weights": None, "args": {}},
        20,
    ),
}


def _frozen(body: nn.Module | Network, seed: int = 0) -> nn.Module:
    """In eval mode, with statistics that are not those of a new network."""
    generator = torch.Generator().manual_seed(seed)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                assert tensor is not None
                tensor.uniform_(0.3, 1.7, generator=generator)
    return body.eval().requires_grad_(False)


def _pixels(batch: int = 4) -> Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class _Chain(nn.Module):
    """conv - norm - ReLU, then whatever a subclass does with it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x))).mean((2, 3))


class _Shortcut(_Chain):
    def forward(self, x: Tensor) -> Tensor:
        between = self.conv(x)
        return (self.act(self.norm(between)) + between).mean((2, 3))


class _Twice(_Chain):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.norm(self.conv(x)))).mean((2, 3))


class _SharedRelu(_Chain):
    """Its ReLU may work in place at its first use only."""

    def forward(self, x: Tensor) -> Tensor:
        first = self.act(self.norm(self.conv(x)))
        return (first + self.act(first)).mean((2, 3))


class _ReadsWeights(_Chain):
    """What it gives depends on the convolution's weights in a way that no graph of activations shows."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.conv.weight.detach().sum()


def _equal_on(one: nn.Module, two: nn.Module) -> None:
    torch.testing.assert_close(two(_pixels()), one(_pixels()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", NETWORKS)
def test_norms_become_parts_of_convolutions_and_answers_stay(name: str, layout: torch.memory_format) -> None:
    config, folded = NETWORKS[name]
    network = create_network(config, SPEC, name=name, seed=0)
    network = _frozen(network).to(memory_format=layout)
    before = copy.deepcopy(network)
    assert len(optimize_for_inference(TapReader(network), _pixels(2))) == folded
    _equal_on(before, network)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert sum(convolution.bias is not None for convolution in convolutions) >= folded
    assert all(conv.weight.is_contiguous(memory_format=layout) for conv in convolutions)
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(("names", "folded"), [(["stem", "stages"], 15), (["stage1.preact", "last_map"], 15),
                                               (["body.norm"], 15), (["body.conv"], 14)])  # fmt: skip
def test_taps_carry_what_they_carried(names: Sequence[str], folded: int) -> None:
    network = _frozen(create_network(NETWORKS["resnet"][0], SPEC, name="resnet14", seed=0))
    names = expand_taps(network, names)
    before = TapReader(copy.deepcopy(network), names)(_pixels()).features
    reader = TapReader(network, names)
    assert len(optimize_for_inference(reader, _pixels(2))) == folded
    after = reader(_pixels()).features
    for name in names:
        torch.testing.assert_close(after[name], before[name], rtol=1e-4, atol=1e-4)


def test_gradients_to_the_inputs_stay() -> None:
    network = _frozen(create_network(NETWORKS["resnet"][0], SPEC, name="resnet14", seed=0))
    gradients = []
    for change in (lambda: (), lambda: optimize_for_inference(TapReader(network), _pixels(2))):
        change()
        pixels = _pixels().requires_grad_()
        network(pixels).square().sum().backward()
        gradients.append(pixels.grad)
    assert gradients[0] is not None
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-3 * float(gradients[0].abs().max()))


@pytest.mark.parametrize(("kind", "folded"), [(_Chain, 1), (_Shortcut, 0), (_Twice, 0), (_SharedRelu, 1),
                                              (_ReadsWeights, 0)])  # fmt: skip
def test_what_somebody_else_reads_is_left_alone(kind: type[nn.Module], folded: int) -> None:
    network = _frozen(kind())
    before = copy.deepcopy(network)
    assert len(optimize_for_inference(TapReader(network), _pixels(2))) == folded
    _equal_on(before, network)
    if not folded:
        assert all(torch.equal(one, two) for one, two in zip(before.parameters(), network.parameters(), strict=True))
        assert torch.equal(before(_pixels()), network(_pixels()))


def test_a_relu_works_in_place_where_all_its_uses_allow_it() -> None:
    kinds = (_Chain, _SharedRelu)
    networks = [_frozen(kind()) for kind in kinds]
    for network in networks:
        optimize_for_inference(TapReader(network), _pixels(2))
    assert [network.act.inplace for network in networks] == [True, False]  # type: ignore[union-attr]


def test_what_is_known_of_a_norm_can_still_be_read() -> None:
    network = _frozen(_Chain())
    weight = network.norm.weight.clone()  # type: ignore[union-attr]
    optimize_for_inference(TapReader(network), _pixels(2))
    assert isinstance(network.norm, nn.BatchNorm2d)
    assert torch.equal(network.norm.weight, weight)


class _ReadInTraining(_Chain):
    """What its ReLU gets is read again, but not in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        normalised = self.norm(self.conv(x))
        pooled = self.act(normalised).mean((2, 3))
        return pooled + normalised.mean((2, 3)) if self.training else pooled


class _ReadInEvaluation(_Chain):
    """What its ReLU gets is read again in eval mode only: a trial in train mode cannot see it."""

    def forward(self, x: Tensor) -> Tensor:
        normalised = self.norm(self.conv(x))
        pooled = self.act(normalised).mean((2, 3))
        return pooled if self.training else pooled + normalised.mean((2, 3))


class _Gate(_Chain):
    """What its ReLU gets is read again without gradient: no graph shows it."""

    def forward(self, x: Tensor) -> Tensor:
        normalised = self.norm(self.conv(x))
        return self.act(normalised).mean((2, 3)) * (1 + (normalised < 0).float().mean((2, 3)))


class _Counts(_Chain):
    """A buffer, and nothing else, depends on what its ReLU got."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("negative", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        normalised = self.norm(self.conv(x))
        pooled = self.act(normalised).mean((2, 3))
        with torch.no_grad():
            self.negative.add_((normalised < 0).sum())  # pyright: ignore[reportCallIssue]
        return pooled


class _Checkpointed(_Chain):
    """Its second part begins with the ReLU and runs again in the backward pass, from what it got."""

    def forward(self, x: Tensor) -> Tensor:
        between = self.norm(self.conv(x))
        return checkpoint(lambda y: self.act(y).mean((2, 3)), between, use_reentrant=False)  # type: ignore[return-value]


class _Ghost(_Chain):
    """Cannot be tried with two samples: each half of the batch is normalised by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.last(half) for half in super().forward(x).chunk(2)])


class _Locked(_Chain):
    """Cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class _Kept(_Chain):
    """The gradient of a sigmoid needs what the sigmoid gave."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x).sigmoid()).mean((2, 3))


class _Part(_Chain):
    """Its ReLU gets a part of something else."""

    def forward(self, x: Tensor) -> Tensor:
        whole = self.norm(self.conv(x))
        return self.act(whole[:, :2]).mean((2, 3)).sum(1, keepdim=True) + whole.mean((2, 3))


def _trained(network: nn.Module) -> list[Tensor]:
    """All weights, statistics and gradients after three steps."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        network(_pixels(8)).square().mean().backward()
        optimizer.step()
    return [*network.state_dict().values(), *(each.grad for each in network.parameters() if each.grad is not None)]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_student_trains_to_the_same_bits_with_its_relus_in_place(name: str) -> None:
    network = create_network(NETWORKS[name][0], SPEC, name=name, seed=0).train()
    before = copy.deepcopy(network)
    torch.manual_seed(3)
    drawn = torch.get_rng_state()
    paths = relus_in_place(TapReader(network), _pixels(2))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(one, two) for one, two in zip(before.state_dict().values(), network.state_dict().values(),
                                                         strict=True))  # fmt: skip
    relus = [module for module in before.modules() if isinstance(module, nn.ReLU) and not module.inplace]
    assert len(paths) == len(relus)
    assert all(torch.equal(one, two) for one, two in zip(_trained(before), _trained(network), strict=True))
    set_in_place(network, paths, False)
    assert not any(network.get_submodule(path).inplace for path in paths)


@pytest.mark.parametrize("kind", [_ReadInTraining, _ReadInEvaluation, _Gate, _Counts, _Checkpointed, _Ghost, _Locked,
                                  _Kept, _Part, _SharedRelu])  # fmt: skip
def test_a_student_whose_relu_may_not_overwrite_keeps_it(kind: type[_Chain]) -> None:
    network = kind()
    assert relus_in_place(TapReader(network), _pixels(2)) == []
    assert not network.act.inplace


@pytest.mark.parametrize("computed", [
    lambda conv: nn.utils.weight_norm(conv), lambda conv: nn.utils.parametrizations.weight_norm(conv),
    lambda conv: prune.random_unstructured(conv, "weight", 0.5),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weights_that_are_computed_are_left_alone(computed: Any) -> None:
    network = _Chain()
    computed(network.conv)
    _frozen(network)
    before = network(_pixels())
    assert optimize_for_inference(TapReader(network), _pixels(2)) == ()
    assert torch.equal(network(_pixels()), before)


def test_a_second_time_changes_nothing() -> None:
    network = _frozen(_Chain())
    assert optimize_for_inference(TapReader(network), _pixels(2)) == ("norm",)
    before = network(_pixels())
    assert optimize_for_inference(TapReader(network), _pixels(2)) == ()
    assert torch.equal(network(_pixels()), before)


def test_a_tap_before_a_relu_is_not_overwritten() -> None:
    network = create_network(NETWORKS["resnet"][0], SPEC, name="resnet14", seed=0).train()
    reader = TapReader(network, ["stage1.preact", "body.norm"])
    paths = relus_in_place(reader, _pixels(2))
    assert len(paths) == 11  # of 13: those at the two taps are left
    reader(_pixels())  # raises where a tap was overwritten


@pytest.mark.parametrize("name", NETWORKS)
def test_code_of_libraries_is_told_from_users_own(name: str) -> None:
    network = create_network(NETWORKS[name][0], SPEC, name=name, seed=0)
    assert is_library_code(network)
    network.set_submodule("body.fc", _Chain())
    assert not is_library_code(network)


def test_a_training_leaves_users_own_modules_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("kdbench.models.memory_traffic.is_library_code", lambda network: False)
    monkeypatch.setattr("kdbench.models.memory_traffic.relus_in_place", never)
    monkeypatch.setattr("kdbench.models.memory_traffic.optimize_for_inference", never)
    for recipe in recipes("teacher=plain4", "assistants=[]", outputs=tmp_path):
        Trainer(settings(tmp_path)).make(recipe, Quiet())


@pytest.mark.parametrize("method", ["kd", "kdiga", "reviewkd", "ofd", "fsp", "dml"])
def test_a_training_learns_the_same_from_cheaper_networks(method: str, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    typed = ("teacher=resnet8", "student=resnet8", f"method={method}", "assistants=[]", "trainer.max_epochs=1")
    histories: list[Any] = []
    for outputs in (tmp_path / "cheaper", tmp_path / "plain"):
        trainer = Trainer(settings(outputs))
        entries = [trainer.make(recipe, Quiet()) for recipe in recipes(*typed, outputs=outputs)]
        histories.append(entries[-1].history[-1])
        monkeypatch.setattr("kdbench.runner.lighten", lambda *_, compiled: [])
    cheaper, plain = histories
    assert cheaper == pytest.approx(plain, rel=1e-3)
