"""``kdbench search`` as it is typed."""

import importlib.util
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from kdbench.cli import main
from kdbench.store import Store
from tests.toy import SHORT

FIXED = (*SHORT, "teacher=plain4", "student=plain2", "trainer.max_epochs=1")
TUNED = ("hops.plain2.method.temperature=choice(1,8)", "hops.plain2.optim.lr=tag(log,interval(0.01,0.1))")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(["search", *arguments])
        return status, *capfd.readouterr()

    return call


def test_a_search_ranks_records_goes_on_and_says_what_to_type_next(run: Any, outputs: Path) -> None:
    status, out, err = run(*FIXED, *TUNED, "search.trials=2", "sweep.workers=2")
    assert status == 0, err
    assert "2 trials, compared by val/acc" in out
    assert "TEST SET" not in out
    assert len(list(Store(outputs / "store"))) == 3, "the teacher is shared"
    (record,) = outputs.glob("runs/search-*/run.json")
    found = json.loads(record.read_text())
    assert found["search"]["tuned_trials"] == len(found["jobs"]) == 2
    assert found["search"]["selected_on"] == "val"
    best = next(line for line in out.splitlines() if line.startswith("best: kdbench "))
    assert set(found["search"]["best"]) <= set(shlex.split(best))
    assert main(["dry_run=true", *shlex.split(best)[2:]]) == 0, "what is printed can be typed"

    status, out, _ = run(*FIXED, *TUNED, "search.trials=3", "sweep.workers=2")
    assert status == 0
    assert "2 trials are known" in out
    assert out.count("start  student") == 1
    assert len(list(outputs.glob("runs/search-*"))) == 1


def test_the_papers_space_is_one_word(run: Any, tmp_path: Path) -> None:
    status, out, err = run("search=takd", "dry_run=true", "protocol=released")
    assert status == 0, err
    assert "method.weights.kd, method.temperature: 120 trials, compared by test/acc" in out
    assert "TEST SET" in out
    assert list(tmp_path.iterdir()) == []


def test_one_weight_is_the_complement_of_the_other() -> None:
    from kdbench.config.compose import Composer
    from kdbench.config.jobs import make_jobs
    from kdbench.config.space import split_space

    composer = Composer(config_name="search")
    fixed, space = split_space(composer, make_jobs(composer, ["search=takd"])[0].config["search"]["space"])
    assert {dimension.key: dimension.ends for dimension in space} == {
        "method.weights.kd": (0.05, 1.0),
        "method.temperature": ("1", "2", "5", "10", "15", "20"),
    }
    (job,) = make_jobs(composer, [*fixed, "method.weights.kd=0.3", "hops.plain4.method.weights.kd=1.0"])
    assert job.config["method"]["weights"] == {"task": 0.7, "kd": 0.3}
    assert job.hop("plain4")["method"]["weights"] == {"task": 0.0, "kd": 1.0}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["method.temperature=2"], "nothing is searched"),
        (["method.temprature=1,2"], "temperature"),
        (["method.temperature=1,cold"], "cold"),
        (["optim.lr=interval(-1,1)"], "optim.lr=-1"),
        (["teacher=plain4,resnet999"], "resnet999"),
        (["seed=1,2", "search.trials=0"], "search.trials=0"),
        (["seed=1,2", "search.trails=9"], "trials"),
        (["seed=1,2", "search=takt"], "takd"),
        (["seed=1,2", "dataset.val_fraction=0"], "val_fraction"),
        (["student=plain2,plain8", "teacher=plain4"], "16x16"),
    ],
)
def test_a_wrong_search_is_refused_before_it_begins(arguments: list[str], words: str, run: Any, tmp_path: Path) -> None:
    status, out, err = run(*arguments)
    assert status == 2
    assert words in err
    assert "start" not in out
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_names_the_command_that_installs_it(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status, _, err = run("seed=1,2")
    assert status == 2
    assert "pip install 'kdbench[search]'" in err
