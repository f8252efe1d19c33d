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


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("x", "a number or"),
        (True, "a number or"),
        ({"start": 0, "end": 1}, "needs until"),
        ({"start": 0, "end": 1, "untill": 2}, "did you mean 'until'"),
        ({"start": 0, "end": 1, "from": 5, "until": 5}, "must be greater"),
    ],
)
def test_a_bad_weight_names_its_fix(value: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_schedule("kd", value)
