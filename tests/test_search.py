"""Optuna behind our interface: what is asked, told, and found again."""

from pathlib import Path

import pytest

from kdbench.config.space import Dimension
from kdbench.search import Search

SPACE = [
    Dimension("temperature", choices=("1", "2", "5")),
    Dimension("lr", low=0.001, high=0.1, log=True),
    Dimension("weight", low=0.05, high=1.0, step=0.05),
    Dimension("epochs", low=1, high=4),
]


def search(folder: Path, seed: int = 0) -> Search:
    return Search(folder, SPACE, seed=seed)


def run(found: Search, trials: int) -> list[tuple[str, ...]]:
    for _ in range(trials):
        trial = found.ask()
        found.tell(trial, -abs(float(trial.overrides[1].split("=")[1]) - 0.01))
    return [trial.overrides for trial in found.trials]


def test_trials_lie_in_the_space(tmp_path: Path) -> None:
    for trial in run(search(tmp_path), 8):
        values = dict(text.split("=") for text in trial)
        assert values["temperature"] in ("1", "2", "5")
        assert 0.001 <= float(values["lr"]) <= 0.1
        assert len(values["weight"]) <= 4
        assert 0.05 <= float(values["weight"]) <= 1.0
        assert values["epochs"] in ("1", "2", "3", "4")


def test_a_search_that_was_broken_off_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    whole = run(search(tmp_path / "whole"), 14)
    run(search(tmp_path / "broken"), 6)
    lost = search(tmp_path / "broken").ask()
    again = search(tmp_path / "broken")
    (unfinished,) = again.begun()
    assert (unfinished.number, unfinished.overrides) == (6, lost.overrides) == (6, whole[6])
    again.tell(unfinished, -abs(float(unfinished.overrides[1].split("=")[1]) - 0.01))
    assert run(again, 7) == whole
    assert run(search(tmp_path / "other", seed=1), 1)[0] != whole[0]


def test_a_failed_trial_counts_and_is_not_ranked(tmp_path: Path) -> None:
    found = search(tmp_path)
    for value in (50.0, None, 70.0, 70.0):
        found.tell(found.ask(), value)
    assert [trial.number for trial in found.ranking] == [2, 3, 0]
    assert [trial.value for trial in search(tmp_path).trials] == [50.0, None, 70.0, 70.0]


def test_a_trial_that_two_processes_finished_is_told_once(tmp_path: Path) -> None:
    found = search(tmp_path)
    trial = found.ask()
    found.tell(trial, 50.0)
    search(tmp_path).tell(trial, 60.0)
    assert found.ranking[0].value == pytest.approx(50.0)
