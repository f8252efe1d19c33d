"""``eval=[...]`` on runs and sweeps, through the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from kdbench.cli import main
from kdbench.config.compose import Composer
from kdbench.config.jobs import make_jobs
from kdbench.measure import Measurer, measure_here
from kdbench.report.collect import collect_run, find_run
from kdbench.store import Store
from tests.toy import SHORT, settings

PAIR = (*SHORT, "teacher=plain4", "trainer.max_epochs=1")


def records(outputs: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in outputs.glob("evals/*/*.json")]


def test_a_run_measures_its_student_and_its_teacher_once_and_shows_them(
    outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*PAIR, "eval=[calibration,fidelity]"]) == 0
    out = capsys.readouterr().out
    assert "note: eval: calibration, fidelity of 2 networks" in out
    assert "note: no fidelity of plain4" in out
    assert sorted(record["evaluation"] for record in records(outputs)) == ["calibration", "calibration", "fidelity"]
    row = next(line for line in out.splitlines() if line.startswith("role"))
    assert "calibration ece" in row
    assert "fidelity kl" in row
    networks = {network.name: network for network in collect_run(find_run(outputs, None)).networks}
    assert networks["plain2"].headlines.keys() == {"calibration ece", "fidelity kl"}
    assert networks["plain2"].headlines["calibration ece"] == networks["plain2"].evals["calibration"]["ece"]

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(Measurer, "measure", refuse)
    assert main([*PAIR, "eval=[calibration,fidelity]"]) == 0
    assert "calibration ece" in capsys.readouterr().out


def test_other_options_are_another_measurement_and_the_report_shows_those_of_the_run(outputs: Path) -> None:
    for bins in (15, 5):
        assert main([*PAIR, "eval=[calibration]", f"eval.calibration.bins={bins}"]) == 0
        shown = collect_run(find_run(outputs, None)).networks
        assert {len(network.evals["calibration"]["bins"]) for network in shown} == {bins}


def test_what_suits_no_student_is_refused_before_any_training(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["eval=[linear_probe,ood]", "eval.linear_probe.tap=stage9", "eval.ood.dataset=digits"]
    for command in ([*PAIR, *wrong], ["-m", "seed=0,1", *PAIR, *wrong]):
        assert main(command) == 2
        err = capsys.readouterr().err
        assert "eval.linear_probe.tap" in err
        assert "eval.ood.dataset=digits" in err
        assert not outputs.exists()


def test_a_sweep_measures_in_workers_what_can_be_measured(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PAIR]) == 0
    sweep = ["-m", *SHORT, "trainer.max_epochs=1", "teacher=plain4,none", "sweep.workers=2", "eval=[fidelity,fgsm]"]
    assert main(sweep) == 0
    out = capsys.readouterr().out
    assert "note: no fidelity of plain2" in out
    assert sorted(record["evaluation"] for record in records(outputs)) == ["fgsm"] * 3 + ["fidelity"]
    record = json.loads((find_run(outputs, None) / "run.json").read_text())
    assert record["eval"].keys() == {"fidelity", "fgsm"}
    assert record["unmeasured"] == {}


def test_a_failure_is_recorded_and_the_others_go_on(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.metrics.calibration import Calibration

    def fail(*_: Any) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(Calibration, "__call__", fail)
    assert main([*PAIR, "eval=[calibration,fgsm]"]) == 1
    assert [record["evaluation"] for record in records(outputs)] == ["fgsm", "fgsm"]
    folder = find_run(outputs, None)
    assert len(list((folder / "failures").glob("calibration-*.txt"))) == 2
    assert any("broken on purpose" in flag for flag in collect_run(folder).flags)


def test_evaluations_are_the_same_for_all_jobs_of_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", *PAIR, "eval=[pgd],[fgsm]"]) == 2
    assert "eval: differs between jobs" in capsys.readouterr().err


def test_nothing_is_measured_twice_by_the_measurer_either(outputs: Path) -> None:
    assert main([*PAIR]) == 0
    (job,) = make_jobs(Composer(), ["eval=[calibration]"])
    found = settings(outputs, evaluations=job.config["eval"])
    recipes, said = [entry.recipe for entry in Store(outputs / "store")], []
    for _ in range(2):
        assert measure_here(recipes, found, said.append) == {}
    assert len(said) == 2
