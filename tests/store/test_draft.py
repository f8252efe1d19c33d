import contextlib
import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from store_toy import HISTORY, METRICS, commit_toy, toy_recipe, train_toy, write_toy

from kdbench.core.errors import Stopped, StoreError
from kdbench.core.signals import stopping_safely
from kdbench.store import CHECKPOINT, Entry, Owner, Store

RECIPE = toy_recipe()
STEPS = ("fsync", "open", "replace", "rename", "chmod", "unlink", "mkdir", "rmdir")

KILLED_COMMITS = """
import itertools, os, signal, sys
from pathlib import Path
from store_toy import METRICS, HISTORY, ENV, toy_recipe, write_toy
from kdbench.store import Store
from test_draft import RECIPE, interrupt

for step in itertools.count():
    if not (child := os.fork()):
        with Store(Path(sys.argv[1], str(step), "store")).draft(RECIPE) as draft:
            write_toy(draft)
            interrupt(step, lambda: os.kill(os.getpid(), signal.SIGKILL), setattr)
            draft.commit(METRICS, HISTORY, ENV)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""

RACER = """
import sys, time
from pathlib import Path
from store_toy import commit_toy, toy_recipe
from kdbench.store import Store
waited = []
with Store(Path(sys.argv[1])).draft(toy_recipe(), on_wait=waited.append) as draft:
    if draft.entry is None:
        time.sleep(1)
        commit_toy(draft)
        print("trained")
    else:
        print("found", *[owner.pid for owner in waited])
"""

HOLDER = """
import sys, time
from pathlib import Path
from store_toy import toy_recipe, write_toy
from kdbench.store import Store
with Store(Path(sys.argv[1])).draft(toy_recipe()) as draft:
    write_toy(draft)
    print("ready", flush=True)
    time.sleep(60)
"""


def start(script: str, folder: Path) -> subprocess.Popen[str]:
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here, here.parents[1])))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", script, folder], env=env, stdout=subprocess.PIPE, text=True)


def broken_disk(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def interrupt(step: int, action: Callable[[], None], patch: Callable[[object, str, object], None]) -> None:
    """Makes ``action`` happen instead of the system call number ``step`` from here on."""
    calls = itertools.count()

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*args: object, **kwargs: object) -> object:
            if next(calls) == step:
                action()
            return call(*args, **kwargs)

        return wrapper

    for name in STEPS:
        patch(os, name, counted(getattr(os, name)))


def check_nothing_lost(store: Store) -> None:
    """After a cut-off commit: no half entry, and what is left becomes the whole one without training again."""
    before = store.get(RECIPE.digest)
    assert before is not None or store.has_checkpoint(RECIPE.digest)
    with store.draft(RECIPE) as draft:
        if draft.entry is None:
            assert draft.checkpoint.read_bytes() == b"state"
            commit_toy(draft)
    entry = store.get(RECIPE.digest)
    assert entry is not None
    assert (entry.metrics, entry.history, entry.verify()) == (METRICS, HISTORY, [])
    assert CHECKPOINT not in os.listdir(entry.path)


def test_commit_killed_at_any_step_loses_nothing(tmp_path: Path) -> None:
    process = start(KILLED_COMMITS, tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == 0
    steps = sorted(map(int, os.listdir(tmp_path)))
    assert len(steps) > 25
    found = [Store(tmp_path / str(step) / "store").get(RECIPE.digest) for step in steps]
    assert found[0] is None
    assert found[-1] is not None
    for step in steps:
        check_nothing_lost(Store(tmp_path / str(step) / "store"))


def test_commit_failing_at_any_step_loses_nothing(tmp_path: Path) -> None:
    step = 0
    for step in itertools.count():
        store = Store(tmp_path / str(step) / "store")
        with pytest.MonkeyPatch.context() as patch, store.draft(RECIPE) as draft:
            write_toy(draft)
            interrupt(step, broken_disk, patch.setattr)
            try:
                draft.commit(METRICS, HISTORY, {})
            except StoreError:
                patch.undo()
            else:
                patch.undo()
                break
        check_nothing_lost(store)
    assert step > 25


def test_commit_syncs_content_before_each_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    with store.draft(RECIPE) as draft:
        write_toy(draft)
        for name in ("fsync", "replace", "rename"):
            call = getattr(os, name)
            monkeypatch.setattr(os, name, lambda *args, name=name, call=call: (done.append(name), call(*args)))
        draft.commit(METRICS, HISTORY, {})
    text_file = ["fsync", "replace", "fsync"]
    assert done == [*text_file * 5, "rename", "fsync", "fsync", "fsync"]


@pytest.mark.parametrize("end", [b"", b"\1"], ids=["cut short", "changed"])
def test_cut_off_commit_with_damaged_weights_is_not_finished(
    store: Store, monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    with store.draft(RECIPE) as draft:
        write_toy(draft)
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", broken_disk)
            with pytest.raises(StoreError):
                draft.commit(METRICS, HISTORY, {})
        path = draft.path / "last.safetensors"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + end)
    with store.draft(RECIPE) as draft:
        assert draft.entry is None
        assert commit_toy(draft).verify() == []


def test_racing_processes_train_once(store: Store) -> None:
    racers = [start(RACER, store.root) for _ in range(2)]
    said = {racer.pid: racer.communicate(timeout=30)[0].split() for racer in racers}
    (winner,) = [pid for pid, words in said.items() if words == ["trained"]]
    (loser,) = [pid for pid in said if pid != winner]
    assert said[loser] == ["found", str(winner)]
    assert len(list(store)) == 1


def test_death_of_the_owner_frees_the_draft_and_keeps_its_checkpoint(store: Store) -> None:
    owner = start(HOLDER, store.root)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    waited: list[Owner | None] = []

    def kill(holder: Owner | None) -> None:
        waited.append(holder)
        owner.kill()
        owner.communicate()

    assert store.gc(older_than_days=0) == []
    with store.draft(RECIPE, on_wait=kill) as draft:
        assert draft.entry is None
        assert draft.checkpoint.read_bytes() == b"state"
    assert [holder and holder.pid for holder in waited] == [owner.pid]
    assert owner.returncode == -signal.SIGKILL


def test_waiting_ends_when_a_signal_asks_for_it(store: Store) -> None:
    owner = start(HOLDER, store.root)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    try:
        with (
            pytest.raises(Stopped),
            stopping_safely(),
            store.draft(RECIPE, on_wait=lambda _: os.kill(os.getpid(), signal.SIGTERM)),
        ):
            pass
    finally:
        owner.kill()
        owner.communicate()


def test_draft_of_a_finished_network_gives_the_entry(store: Store, entry: Entry) -> None:
    with store.draft(RECIPE) as draft:
        assert draft.entry is not None
        assert draft.entry.path == entry.path
        assert store.gc() == []  # the lock is held, although there is no folder
    assert os.listdir(store.root / ".drafts") == []


def test_first_of_two_commits_wins_where_locks_do_not_reach(store: Store, tmp_path: Path) -> None:
    other = train_toy(Store(tmp_path / "other"), RECIPE)
    with store.draft(RECIPE) as draft:
        write_toy(draft)
        target = store.root / RECIPE.digest[:2] / RECIPE.digest
        shutil.copytree(other.path, target)
        committed = draft.commit({}, [], {})
    assert committed.path == target
    assert committed.metrics == METRICS
    assert os.listdir(store.root / ".drafts") == []


def test_failed_training_keeps_its_draft_and_an_empty_one_leaves_nothing(store: Store) -> None:
    for written in (False, True):
        with contextlib.suppress(MemoryError), store.draft(RECIPE) as draft:
            if written:
                write_toy(draft)
            raise MemoryError
        assert store.has_checkpoint(RECIPE.digest) == written
        assert draft.path.exists() == written
    assert store.get(RECIPE.digest) is None


def test_draft_clears_half_written_files_of_its_predecessor(store: Store) -> None:
    with store.draft(RECIPE) as draft:
        write_toy(draft)
        (draft.path / ".resume.ckpt.1.tmp").write_bytes(b"half")
    with store.draft(RECIPE) as draft:
        assert [name for name in os.listdir(draft.path) if name.endswith(".tmp")] == []


def test_commit_leaves_out_what_is_not_part_of_an_entry(store: Store) -> None:
    with store.draft(RECIPE) as draft:
        (draft.path / "logs").mkdir()
        (draft.path / "logs" / "log.txt").write_text("x")
        entry = commit_toy(draft)
    expected = "best.safetensors checksums.json env.json history.csv last.safetensors metrics.json recipe.json"
    assert sorted(os.listdir(entry.path)) == expected.split()


def test_commit_refuses_nan_metrics_and_missing_weights(store: Store) -> None:
    with store.draft(RECIPE) as draft:
        with pytest.raises(AssertionError, match=r"last.safetensors was not written"):
            draft.commit({}, [], {})
        draft.write("last.safetensors", lambda file: file.write(b"x"))
        with pytest.raises(AssertionError, match=r"best.safetensors was not written"):
            draft.commit({}, [], {})
        write_toy(draft)
        with pytest.raises(ValueError, match="nan"):
            draft.commit({"test/acc": float("nan")}, [], {})
        assert commit_toy(draft).metrics == METRICS


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_keeps_the_previous_checkpoint_and_names_the_fix(
    store: Store, break_disk: Callable[..., None], number: int
) -> None:
    with store.draft(RECIPE) as draft:
        write_toy(draft)
        break_disk(number, ("fsync",))
        with pytest.raises(StoreError, match=r"is full .*free space and type the same command again.*paths\.outputs"):
            draft.write(CHECKPOINT, lambda file: file.write(b"newer"))
        assert draft.checkpoint.read_bytes() == b"state"
        assert [name for name in os.listdir(draft.path) if name.endswith(".tmp")] == []


def test_full_disk_is_recognised_below_another_error(store: Store) -> None:
    def writer(_: object) -> None:  # what torch.save does
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904

    with store.draft(RECIPE) as draft, pytest.raises(StoreError, match="is full"):
        draft.write(CHECKPOINT, writer)


def test_error_of_the_writer_itself_is_not_disguised(store: Store) -> None:
    def writer(_: object) -> None:
        raise RuntimeError("cannot pickle")

    with store.draft(RECIPE) as draft, pytest.raises(RuntimeError, match="cannot pickle"):
        draft.write(CHECKPOINT, writer)
