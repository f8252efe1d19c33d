"""The sweep file that we ship, read as W&B's agent reads it, and composed as we compose."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from kdbench.config.compose import Composer
from kdbench.config.jobs import make_jobs
from tests.conftest import REPO
from tests.test_loggers import _fresh_process, of_type, run_info, train, wandb_records  # noqa: F401 (a fixture)

SWEEP = yaml.safe_load((REPO / "docs" / "wandb_sweep.yaml").read_text())


def values(parameter: dict[str, Any]) -> list[Any]:
    return parameter.get("values") or [parameter["min"], parameter["max"]]


def combinations() -> list[dict[str, Any]]:
    parameters = SWEEP["parameters"]
    return [
        dict(zip(parameters, chosen, strict=True)) for chosen in itertools.product(*map(values, parameters.values()))
    ]


def command(chosen: dict[str, Any]) -> list[str]:
    """The command line of one run, its parameters filled in by W&B's own function."""
    filled = create_sweep_command_args({"args": {key: {"value": value} for key, value in chosen.items()}})
    words: list[str] = []
    for word in SWEEP["command"]:
        words += filled["args_no_hyphens"] if word == "${args_no_hyphens}" else [word]
    assert words[:2] == ["${env}", "${program}"]
    return words[2:]


def test_every_combination_is_a_job() -> None:
    composer = Composer()
    for chosen in combinations():
        (job,) = make_jobs(composer, command(chosen))
        method = job.hop("student")["method"]
        assert method["temperature"] == chosen["hops.student.method.temperature"]
        assert method["weights"]["kd"] == chosen["hops.student.method.weights.kd"]
        assert method["weights"]["task"] == pytest.approx(1.0 - method["weights"]["kd"])
        assert job.hop("student")["optim"]["lr"] == chosen["hops.student.optim.lr"]
        assert job.hop("plain4")["method"]["temperature"] == 4.0
        assert "wandb" in job.config["logger"]


def test_what_is_maximised_is_logged_and_is_not_the_test_set() -> None:
    assert SWEEP["metric"] == {"name": "val/acc", "goal": "maximize"}
    assert SWEEP["program"] == "kdbench"


def test_in_a_sweep_the_students_run_is_the_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "agents0")
    for role in ("teacher", "assistant", "student"):
        train({"wandb": {"mode": "offline"}}, run_info(tmp_path, role=role))
    (records,) = wandb_records(tmp_path)
    (run,) = of_type(records, "run")
    assert (run["run_id"], run["job_type"]) == ("agents0", "student")
