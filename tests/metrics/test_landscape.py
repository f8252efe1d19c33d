import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from kdbench.core.errors import ConfigError, DataError
from kdbench.core.types import Batch, DataSpec
from kdbench.metrics.landscape import Landscape, filter_normalised

SPEC = DataSpec(name="toy", num_classes=3, input_shape=(2, 4, 4), train_size=1, mean=(0.0,) * 2, std=(1.0,) * 2)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3))


def batches(count: int = 12) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand(count, 2, 4, 4, generator=generator)
    return [Batch(inputs, torch.arange(count) % 3, torch.arange(count))]


def loss(net: nn.Module, batch: Batch) -> float:
    with torch.no_grad():
        return cross_entropy(net.eval()(batch.inputs), batch.target).item()


def test_every_filter_moves_by_its_own_norm_and_vectors_stay() -> None:
    net = network()
    direction = filter_normalised(net, torch.Generator().manual_seed(0))
    for name, weight in net.named_parameters():
        if weight.dim() == 1:
            assert not direction[name].any()
        else:
            for moved, filters in zip(direction[name], weight, strict=True):
                assert moved.norm().item() == pytest.approx(filters.norm().item(), rel=1e-5)


def test_surface_is_the_loss_of_the_moved_network_and_the_network_is_left_as_it_was() -> None:
    net, (batch,) = network().train(), batches()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = Landscape(points=3, radius=0.7, ring=0.4)(net, [batch], (), SPEC)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
    generator = torch.Generator().manual_seed(0)
    along, across = filter_normalised(net, generator), filter_normalised(net, generator)

    def at(x: float, y: float) -> float:
        moved = network()
        moved.load_state_dict(before)
        with torch.no_grad():
            for name, weight in moved.named_parameters():
                weight += x * along[name] + y * across[name]
        return loss(moved, batch)

    assert found["places"] == pytest.approx([-0.7, 0.0, 0.7])
    for row, y in zip(found["surface"], found["places"], strict=True):
        assert row == pytest.approx([at(x, y) for x in found["places"]], rel=1e-4)
    turns = [2 * math.pi * k / 16 for k in range(16)]
    ring = sum(at(0.4 * math.cos(turn), 0.4 * math.sin(turn)) for turn in turns) / 16
    assert found["loss"] == pytest.approx(at(0, 0), rel=1e-5)
    assert found["rise"] == pytest.approx(ring - at(0, 0), rel=1e-3)


def test_samples_are_the_first_and_losses_that_are_not_finite_are_none() -> None:
    net = network()
    assert Landscape(points=3, samples=5)(net, batches(), (), SPEC)["samples"] == 5
    with torch.no_grad():
        net[4].weight.fill_(float("inf"))
    assert Landscape(points=3)(net, batches(), (), SPEC)["loss"] is None


@pytest.mark.parametrize("options", [{"points": 4}, {"points": 1}, {"radius": 0.0}, {"ring": -1.0}, {"samples": 0}])
def test_numbers_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"eval\.landscape"):
        Landscape(**options)  # pyright: ignore[reportArgumentType]


def test_nothing_to_move_or_to_measure_is_refused() -> None:
    with pytest.raises(ConfigError, match="two dimensions"):
        Landscape().check(nn.BatchNorm2d(2), (), SPEC)
    with pytest.raises(DataError, match="nothing to evaluate"):
        Landscape()(network(), [], (), SPEC)
