"""Real processes and real signals: kill, stop, race, crash, and what is left afterwards."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.store import Store
from tests.conftest import REPO

LONG = ("teacher=none", "assistants=[]", "trainer.max_epochs=10", "trainer.batch_size=32", "dataset.augment=crop_flip")
EVERY_STEP = "trainer.checkpoint_every=0"


def start(outputs: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "kdbench", f"paths.outputs={outputs}", "trainer.threads=1", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload]


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def checkpoints(outputs: Path) -> list[Path]:
    return list(outputs.glob("store/.drafts/*/resume.ckpt"))


def only(outputs: Path) -> Any:
    (entry,) = list(Store(outputs / "store"))
    return entry


def test_killed_at_random_and_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    assert finish(start(tmp_path / "whole", *LONG))[0] == 0
    outputs = tmp_path / "killed"
    chance = random.Random(0)
    for _ in range(3):
        process = start(outputs, *LONG, EVERY_STEP)
        seen = {path: path.stat().st_mtime_ns for path in checkpoints(outputs)}
        wait_for(lambda seen=seen: any(p.stat().st_mtime_ns != seen.get(p) for p in checkpoints(outputs)), process)
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
        process.communicate()
    status, out, _ = finish(start(outputs, *LONG, EVERY_STEP))
    assert status == 0
    assert "resume" in out.split("student")[0]
    whole, resumed = only(tmp_path / "whole"), only(outputs)
    assert whole.digest == resumed.digest
    expected = whole.weights()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.weights().items())
    assert whole.history == resumed.history


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("sweep", [(), ("-m", "seed=1,2", "sweep.workers=2")], ids=["alone", "sweep"])
def test_a_signal_stops_promptly_and_leaves_a_resumable_state(
    signum: signal.Signals, status: int, sweep: tuple[str, ...], tmp_path: Path
) -> None:
    endless = (*LONG, "trainer.max_epochs=5000", "trainer.checkpoint_every=1e9")
    process = start(tmp_path, *endless, *sweep)
    wait_for(lambda: len(list(tmp_path.glob("store/.drafts/*/owner.json"))) == (2 if sweep else 1), process)
    time.sleep(2)  # into the training: nothing is saved before the signal
    assert checkpoints(tmp_path) == []
    asked = time.monotonic()
    os.killpg(process.pid, signum)  # as a terminal does: to the parent and to its workers
    code, out, err = finish(process)
    assert "failed" not in out
    assert code == status
    assert time.monotonic() - asked < 20
    assert "same command" in err
    assert "Traceback" not in err
    assert len(checkpoints(tmp_path)) == (2 if sweep else 1)
    plan = finish(start(tmp_path, *endless, *sweep, "dry_run=true"))[1]
    assert plan.count("resume ") == (2 if sweep else 1)


def test_two_racing_processes_train_once(tmp_path: Path) -> None:
    racers = [start(tmp_path, *LONG, EVERY_STEP) for _ in range(2)]
    ends = [finish(process) for process in racers]
    assert [status for status, _, _ in ends] == [0, 0]
    assert only(tmp_path)
    assert sum("waiting for" in out for _, out, _ in ends) == 1


def test_a_failed_training_is_recorded_its_descendants_skipped_and_the_others_finish(tmp_path: Path) -> None:
    arguments = ("-m", "optim.lr=0.05,1e30", "trainer.max_epochs=2", "trainer.limit_train_batches=4")
    status, out, _ = finish(start(tmp_path, *arguments))
    assert status == 1
    assert "plain6 diverged" in out
    assert "its teacher plain6" in out
    assert "its teacher plain4" in out
    assert len(list(Store(tmp_path / "store"))) == 3
    (record,) = tmp_path.glob("runs/sweep-*/failures/plain6-*.txt")
    assert "diverged" in record.read_text()
    (run,) = tmp_path.glob("runs/sweep-*/run.json")
    statuses = [network["status"] for network in json.loads(run.read_text())["networks"].values()]
    assert sorted(statuses) == ["done", "done", "done", "failed", "skipped", "skipped"]
    again = finish(start(tmp_path, *arguments))[1]
    assert "6 networks: 3 to train, 3 in the store" in again


def test_a_killed_worker_is_named_and_the_same_sweep_trains_only_what_is_missing(tmp_path: Path) -> None:
    arguments = ("-m", "seed=1,2", "sweep.workers=2", *LONG, EVERY_STEP)
    process = start(tmp_path, *arguments)
    wait_for(lambda: len(list(tmp_path.glob("store/.drafts/*/owner.json"))) == 2, process)
    wait_for(lambda: len(checkpoints(tmp_path)) == 2, process)
    victim = json.loads(next(iter(tmp_path.glob("store/.drafts/*/owner.json"))).read_text())["pid"]
    os.kill(victim, signal.SIGKILL)
    status, out, _ = finish(process)
    assert status == 1
    assert "killed by SIGKILL" in out
    assert len(list(Store(tmp_path / "store"))) == 1
    status, out, _ = finish(start(tmp_path, *arguments))
    assert status == 0
    assert "1 to resume, 1 in the store" in out


def test_a_worker_that_is_asked_to_stop_alone_does_not_hang_the_sweep(tmp_path: Path) -> None:
    arguments = ("-m", "seed=1", "teacher=plain4", "assistants=[]", "trainer.max_epochs=5000", EVERY_STEP)
    process = start(tmp_path, *arguments)
    wait_for(lambda: len(checkpoints(tmp_path)) == 1, process)
    (owner,) = tmp_path.glob("store/.drafts/*/owner.json")
    os.kill(json.loads(owner.read_text())["pid"], signal.SIGTERM)
    status, out, _ = finish(process)
    assert status == 1
    assert "stopped" in out
    assert "its teacher plain4" in out


def test_workers_stop_when_their_parent_is_killed(tmp_path: Path) -> None:
    process = start(tmp_path, "-m", "seed=1,2", "sweep.workers=2", *LONG, "trainer.max_epochs=5000", EVERY_STEP)
    wait_for(lambda: len(checkpoints(tmp_path)) == 2, process)
    owners = [json.loads(path.read_text())["pid"] for path in tmp_path.glob("store/.drafts/*/owner.json")]
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while any(_alive(pid) for pid in owners):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_planning_imports_no_torch() -> None:
    script = (
        "import sys; from kdbench.cli import main\n"
        "for line in (['--help'], ['--cfg', 'job'], ['store', 'ls'], ['-m', 'seed=1,2', 'dry_run=true']):\n"
        "    assert main(line) == 0, line\n"
        "    heavy = {'torch', 'pytorch_lightning', 'timm', 'wandb', 'transformers'} & set(sys.modules)\n"
        "    assert not heavy, (line, heavy)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": str(REPO)})


def test_a_training_imports_no_library_that_it_does_not_use(tmp_path: Path) -> None:
    script = (
        "import sys; from kdbench.cli import main\n"
        "assert main(['teacher=none', 'trainer.max_epochs=1', 'trainer.limit_train_batches=2']) == 0\n"
        "heavy = {'timm', 'wandb', 'transformers', 'tensorboard', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPO), "KDBENCH_OUTPUTS": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
