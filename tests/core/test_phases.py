from typing import Any

import pytest

from kdbench.core.errors import ConfigError
from kdbench.core.phases import resolve_phases

HINT: dict[str, Any] = {
    "epochs": 0.125,
    "weights": {"fitnet": 1.0},
    "train": "taps",
    "optim": {"_target_": "torch.optim.SGD", "lr": 0.05, "schedule": {"kind": "constant"}},
}


@pytest.mark.parametrize(
    ("epochs", "max_epochs", "whole"),
    [(0.125, 240, 30), (0.125, 30, 4), (0.1, 30, 3), (0.125, 1, 1), (1.0, 30, 1), (7, 3, 7)],
)
def test_epochs_below_one_are_a_part_of_the_training_rounded_up(epochs: float, max_epochs: int, whole: int) -> None:
    assert resolve_phases({"hint": {**HINT, "epochs": epochs}}, max_epochs) == {"hint": {**HINT, "epochs": whole}}


def test_a_phase_of_no_epochs_is_none() -> None:
    assert resolve_phases({"hint": {**HINT, "epochs": 0.0}}, 30) == {}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"epoch": 3}, r"method\.phases\.hint\.epoch: unknown; did you mean 'epochs'"),
        ({"epochs": 1.5}, r"hint\.epochs=1.5: a whole number is expected, or a part"),
        ({"epochs": -1}, r"hint\.epochs=-1: a whole number"),
        ({"train": "tap"}, r"hint\.train=tap: unknown; did you mean 'taps'"),
        ({"optim": {"lr": 0.1}}, r"hint\.optim: a whole optimiser is expected"),
        ({"optim": {**HINT["optim"], "lr": 0.0}}, r"hint\.optim\.lr=0.0: must be greater than 0"),
    ],
)
def test_a_phase_that_makes_no_sense_is_refused(change: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        resolve_phases({"hint": {**HINT, **change}}, 30)


def test_a_phase_that_lacks_a_key_names_it_and_all_phases_are_looked_at() -> None:
    short = {key: value for key, value in HINT.items() if key != "weights"}
    with pytest.raises(ConfigError) as error:
        resolve_phases({"one": short, "two": 3}, 30)
    assert error.value.problems[0] == "method.phases.one: lacks weights"
    assert error.value.problems[1].startswith("method.phases.two: a mapping")
