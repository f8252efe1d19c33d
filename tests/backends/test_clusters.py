"""Both cluster backends in their local modes: real jobs, real signals."""

import json
import os
import signal
from pathlib import Path

import pytest

from kdbench.store import Store
from tests.e2e.test_processes import LONG, checkpoints, finish, start, wait_for

SHORT = ("teacher=plain4", "assistants=[]", "trainer.max_epochs=1", "trainer.limit_train_batches=4")
EVERY_STEP = "trainer.checkpoint_every=0"
BACKENDS = {
    "submitit": ("sweep.backend=submitit", "sweep.submitit.cluster=local", "sweep.submitit.cpus=1"),
    "ray": ("sweep.backend=ray",),
}


def owner(outputs: Path) -> int | None:
    """The process that trains now."""
    try:
        (file,) = outputs.glob("store/.drafts/*/owner.json")
        return json.loads(file.read_text())["pid"]
    except (OSError, ValueError):
        return None


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sweep_trains_in_order_and_a_failed_teacher_skips_its_students(backend: str, tmp_path: Path) -> None:
    arguments = ("-m", "optim.lr=0.05,1e30", "sweep.workers=2", *SHORT, *BACKENDS[backend])
    status, out, err = finish(start(tmp_path, *arguments))
    assert status == 1, err
    assert "plain4 diverged" in out
    assert "its teacher plain4" in out
    assert out.index("done  teacher plain4") < out.index("start  student plain2")
    assert len(list(Store(tmp_path / "store"))) == 2
    (run,) = tmp_path.glob("runs/sweep-*/run.json")
    statuses = [network["status"] for network in json.loads(run.read_text())["networks"].values()]
    assert sorted(statuses) == ["done", "done", "failed", "skipped"]
    assert not list(tmp_path.glob("runs/*/messages-*"))


@pytest.mark.parametrize(("backend", "signum"), [("submitit", signal.SIGUSR2), ("ray", signal.SIGKILL)])
def test_a_lost_worker_goes_on_from_its_last_state_and_ctrl_c_ends_it_cleanly(
    backend: str, signum: signal.Signals, tmp_path: Path
) -> None:
    arguments = (*LONG, "trainer.max_epochs=5000", EVERY_STEP, *BACKENDS[backend])
    process = start(tmp_path, *arguments)
    wait_for(lambda: checkpoints(tmp_path) and owner(tmp_path), process)
    first = owner(tmp_path)
    assert first is not None
    os.kill(first, signum)  # SLURM announces the end of a job by SIGUSR2; Ray's machines just vanish
    wait_for(lambda: owner(tmp_path) not in (None, first), process)
    (state,) = checkpoints(tmp_path)
    written = state.stat().st_mtime_ns
    wait_for(lambda: state.stat().st_mtime_ns != written, process)
    os.killpg(process.pid, signal.SIGINT)
    status, out, err = finish(process)
    assert status == 130, (out, err)
    assert "same command" in err
    assert "Traceback" not in err
    assert "stopped" in out
    assert ("requeued" in out) == (backend == "submitit")
    assert len(checkpoints(tmp_path)) == 1
    assert "1 to resume" in finish(start(tmp_path, *arguments, "dry_run=true"))[1]


def test_a_killed_job_is_named_with_its_log(tmp_path: Path) -> None:
    process = start(tmp_path, *LONG, "trainer.max_epochs=5000", EVERY_STEP, *BACKENDS["submitit"])
    wait_for(lambda: checkpoints(tmp_path) and owner(tmp_path), process)
    victim = owner(tmp_path)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    status, out, _ = finish(process)
    assert status == 1
    assert "the same command goes on from its last state" in out
    assert "_log.err" in out
