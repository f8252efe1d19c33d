import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec
from kdbench.metrics.autoattack import AutoAttack


def spec(classes: int) -> DataSpec:
    return DataSpec(name="toy", num_classes=classes, input_shape=(1, 2, 2), mean=(0.0,), std=(1.0,))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for the package: turns every pixel to zero, and keeps what it was given."""
    kept: dict[str, Any] = {}

    class Attacker:
        def __init__(self, network: nn.Module, **options: Any) -> None:
            kept.update(options)

        def run_standard_evaluation(self, inputs: torch.Tensor, target: torch.Tensor, *, bs: int) -> torch.Tensor:
            kept["bs"] = bs
            return torch.zeros_like(inputs)

    monkeypatch.setitem(sys.modules, "autoattack", SimpleNamespace(AutoAttack=Attacker))
    return kept


def test_what_the_package_finds_is_measured(asked: dict[str, Any]) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 10, bias=False))
    nn.init.zeros_(network[1].weight)
    with torch.no_grad():
        network[1].weight[3] = 1.0  # class 3 for all but black images, which are of class 0
    batch = Batch(torch.ones(6, 1, 2, 2), torch.tensor([3, 3, 3, 0, 0, 1]), torch.arange(6))
    result = AutoAttack(epsilons=[4.0], seed=7)(network, [batch], (), spec(10))
    assert (result["samples"], result["clean_acc"]) == (6, 50.0)
    assert result["attacks"] == [{"epsilon_255": 4.0, "acc": pytest.approx(100 / 3)}]
    assert (asked["norm"], asked["version"], asked["seed"], asked["bs"]) == ("Linf", "standard", 7, 6)
    assert asked["eps"] == pytest.approx(4 / 255)


def test_without_the_package_the_line_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "autoattack", None)
    with pytest.raises(ConfigError, match=r"pip install git\+https.*auto-attack; eval=\[pgd\] needs none"):
        AutoAttack()


@pytest.mark.usefixtures("asked")
def test_what_it_cannot_attack_is_refused() -> None:
    with pytest.raises(ConfigError, match="variant=best: standard, plus or rand"):
        AutoAttack(variant="best")
    with pytest.raises(ConfigError, match="need 10 classes, toy has 3"):
        AutoAttack().check(nn.Identity(), (), spec(3))
    AutoAttack(variant="rand").check(nn.Identity(), (), spec(3))
