import importlib.util
from pathlib import Path
from typing import Any

import pytest

from kdbench.backends import BACKENDS, check_backend, room, runs_elsewhere
from kdbench.cli import main
from kdbench.config.compose import Composer
from kdbench.config.jobs import make_jobs


def sweep(*overrides: str) -> dict[str, Any]:
    (job,) = make_jobs(Composer(), list(overrides))
    return job.config["sweep"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_defaults_of_every_backend_are_accepted(backend: str) -> None:
    assert check_backend(sweep(f"sweep.backend={backend}")) == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sweep.backend=rai"], "did you mean 'ray'"),
        (["sweep.workers=0"], "sweep.workers=0: must be at least 1"),
        (["sweep.backend=submitit", "sweep.submitit.cluster=slrm"], "did you mean 'slurm'"),
        (["sweep.backend=submitit", "sweep.submitit.gpus=-1"], "sweep.submitit.gpus=-1"),
        (["sweep.backend=submitit", "sweep.submitit.cluster=slurm"], "srun"),
        (["sweep.backend=submitit", "sweep.submitit.slurm={acount: mine}"], "acount"),
        (["sweep.backend=ray", "sweep.ray.num_cpus=0"], "greater than 0"),
        (["sweep.backend=ray", "sweep.ray.num_gpu=1"], "num_gpus"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(
    overrides: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "seed=1", "teacher=none", *overrides]) == 2
    ran = capsys.readouterr()
    assert words in ran.err
    assert "start" not in ran.out


@pytest.mark.parametrize(("backend", "extra"), [("submitit", "slurm"), ("ray", "ray")])
def test_a_missing_package_names_the_command_that_installs_it(
    backend: str, extra: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == backend else find(name, *a))
    assert main(["-m", "seed=1", f"sweep.backend={backend}"]) == 2
    assert f"pip install 'kdbench[{extra}]'" in capsys.readouterr().err


def test_a_training_gets_the_cores_that_its_backend_gives_it() -> None:
    slurm = sweep("sweep.backend=submitit", "sweep.submitit.cpus=7", "sweep.workers=9")
    assert room(slurm) == {"workers": 1, "share": 7}
    assert room(sweep("sweep.backend=ray", "sweep.ray.num_cpus=0.5"))["share"] == 1
    assert room(sweep("sweep.workers=1000")) == {"workers": 1000, "share": 1}


def test_devices_of_this_machine_say_nothing_about_a_clusters(
    outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdbench.runner import check_all
    from tests.toy import recipes, settings

    made = recipes("teacher=none", "trainer.precision=16-mixed", outputs=outputs)
    assert check_all(made, settings(outputs, accelerator="gpu", elsewhere=True))[0] == []
    assert "no half precision" in check_all(made, settings(outputs))[0][0]
    assert runs_elsewhere(sweep("sweep.backend=ray"))
    assert not runs_elsewhere(sweep())
