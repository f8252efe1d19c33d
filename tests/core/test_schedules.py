import math

import pytest

from kdbench.core.errors import ConfigError
from kdbench.core.schedules import make_schedule
from kdbench.core.types import Progress


def at(epoch: float) -> Progress:
    return Progress(step=round(epoch * 10), total_steps=1000, steps_per_epoch=10)


def test_a_number_is_constant() -> None:
    assert make_schedule("kd", 0.9)(at(0)) == make_schedule("kd", 0.9)(at(50)) == 0.9


def test_a_ramp_is_linear_between_its_epochs_and_flat_outside() -> None:
    ramp = make_schedule("kd", {"start": 1.0, "end": 3.0, "from": 10, "until": 20})
    assert [ramp(at(epoch)) for epoch in (0, 10, 15, 20, 99)] == [1.0, 1.0, 2.0, 3.0, 3.0]


def test_a_gaussian_ramp_is_steepest_before_its_end() -> None:
    ramp = make_schedule("kd", {"start": 0.0, "end": 2.0, "until": 80, "curve": "gaussian"})
    expected = [2 * math.exp(-5 * (1 - part) ** 2) for part in (0, 0.5, 0.75, 1, 1)]
    assert [ramp(at(epoch)) for epoch in (0, 40, 60, 80, 99)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("x", "a number or"),
        (True, "a number or"),
        ({"start": 0, "end": 1}, "needs until"),
        ({"start": 0, "end": 1, "untill": 2}, "did you mean 'until'"),
        ({"start": 0, "end": 1, "from": 5, "until": 5}, "must be greater"),
        ({"start": 0, "end": 1, "until": 5, "curve": "gausian"}, "did you mean 'gaussian'"),
    ],
)
def test_a_bad_weight_names_its_fix(value: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_schedule("kd", value)
