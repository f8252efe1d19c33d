import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from store_toy import commit_toy, tamper, toy_recipe, train_toy, write_toy

from kdbench.core.errors import StoreError
from kdbench.store import Entry, Store

RECIPE = toy_recipe()


def abandon(store: Store, *, days: float) -> Path:
    with store.draft(RECIPE) as draft:
        write_toy(draft)
    then = time.time() - days * 86400
    for path in (*draft.path.iterdir(), draft.path):
        os.utime(path, (then, then))
    return draft.path


def test_empty_store_needs_no_folder(store: Store) -> None:
    assert store.get(RECIPE.digest) is None
    assert list(store) == []
    assert store.verify() == {}
    assert store.gc(broken=True) == []
    assert not store.has_checkpoint(RECIPE.digest)
    assert store.evals(RECIPE.digest) == []
    assert not store.root.exists()


def test_entries_come_oldest_first_and_broken_ones_apart(store: Store) -> None:
    trained = [train_toy(store, toy_recipe(seed)).digest for seed in range(4)]
    assert [entry.digest for entry in store] == trained
    tamper(store.root / trained[1][:2] / trained[1] / "metrics.json", b"{")
    entries, errors = store.scan()
    assert [entry.digest for entry in entries] == [trained[0], *trained[2:]]
    assert list(errors) == [trained[1]]


def test_find_takes_any_unique_beginning(store: Store, entry: Entry) -> None:
    for prefix in (entry.digest, entry.id, entry.digest[:4].upper()):
        assert store.find(prefix).path == entry.path


@pytest.mark.parametrize("prefix", ["abc", "", "wxyz", "../..", "*" * 8])
def test_find_refuses_what_is_no_id(store: Store, entry: Entry, prefix: str) -> None:
    with pytest.raises(StoreError, match=r"at least 4 hexadecimal digits; `kdbench store ls`"):
        store.find(prefix)


def test_find_of_an_unknown_id_names_the_nearest(store: Store, entry: Entry) -> None:
    typo = entry.digest[:7] + ("0" if entry.digest[7] != "0" else "1")
    with pytest.raises(StoreError, match=f"{typo}': no such network .* did you mean '{entry.id}'.*kdbench store ls"):
        store.find(typo)


def test_find_of_an_ambiguous_id_names_the_candidates(store: Store) -> None:
    digests = ["abcd1" + "0" * 59, "abcd2" + "0" * 59]
    for digest in digests:
        (store.root / "ab" / digest).mkdir(parents=True)
    with pytest.raises(StoreError, match=r"'abcd': which of abcd10000000, abcd20000000\? give more digits"):
        store.find("abcd")


def test_gc_removes_abandoned_drafts_with_their_locks(store: Store) -> None:
    draft = abandon(store, days=8)
    assert store.gc(older_than_days=9) == []
    assert store.has_checkpoint(RECIPE.digest)
    size = sum(path.stat().st_size for path in draft.iterdir())
    lock = store.root / ".locks" / f"{RECIPE.digest}.lock"
    assert store.gc() == [(draft, size, "draft, untouched for 8 days"), (lock, 0, "lock that nobody holds")]
    assert not store.has_checkpoint(RECIPE.digest)
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_finished_training_leaves_neither_draft_nor_lock(store: Store, entry: Entry) -> None:
    assert store.gc(broken=True, older_than_days=0) == []
    assert [left.digest for left in store] == [entry.digest]
    assert {path.parent.name for path in store.root.rglob("*") if path.is_file()} == {entry.digest}


def test_gc_dry_run_changes_nothing(store: Store) -> None:
    entry = train_toy(store, toy_recipe(1))
    tamper(entry.path / "metrics.json", b"{")
    draft = abandon(store, days=8)
    before = sorted(store.root.rglob("*"))
    garbage = store.gc(dry_run=True, broken=True)
    assert [item.path for item in garbage] == [draft, entry.path]
    assert (
        garbage[1].reason
        == f"{entry.path / 'metrics.json'}: 1 bytes, {entry.checksums['metrics.json'].bytes} were written"
    )
    assert sorted(store.root.rglob("*")) == before


def test_gc_finishes_a_removal_that_was_cut_off(store: Store, entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    store.remove(entry.digest)
    monkeypatch.undo()
    assert store.get(entry.digest) is None
    assert "left by a removal that was cut off" in [garbage.reason for garbage in store.gc()]
    assert os.listdir(store.root / ".trash") == []


def test_remove_spares_teachers_of_others_unless_forced(store: Store, teacher_and_student: tuple[Entry, Entry]) -> None:
    teacher, student = teacher_and_student
    with pytest.raises(StoreError, match=rf"taught {student.id} \(plain2\)"):
        store.remove(teacher.digest)
    store.remove(teacher.digest, force=True)
    assert [entry.digest for entry in store] == [student.digest]
    store.remove(student.digest)
    with pytest.raises(StoreError, match="no such network"):
        store.remove(student.digest)


def test_evals_stand_beside_the_store_and_are_checked(store: Store, entry: Entry) -> None:
    records = [{"eval": "pgd", "acc": 0.25}, {"eval": "calibration", "ece": None}]
    paths = [store.add_eval(entry.digest, record) for record in records]
    assert store.add_eval(entry.digest, records[0]) == paths[0]
    assert paths[0].parent == store.root.parent / "evals" / entry.digest
    assert sorted(store.evals(entry.digest), key=str) == sorted(records, key=str)
    paths[0].write_text('{"eval": "pgd", "acc": 0.99}')
    with pytest.raises(StoreError, match=f"{paths[0].name}: changed since it was written"):
        store.evals(entry.digest)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_read_only_disk_serves_reads_and_refuses_training(
    store: Store, entry: Entry, break_disk: Callable[..., None], number: int
) -> None:
    break_disk(number, ("open", "mkdir", "rename", "replace"))
    assert store.get(entry.digest) is not None
    assert store.find(entry.id).weights()
    refused = r"cannot be written \(.*\): what it holds can be used.*set paths\.outputs=DIR"
    with pytest.raises(StoreError, match=refused):
        store.ensure_writable()
    with pytest.raises(StoreError, match=refused), store.draft(toy_recipe(1)):
        pass
    with pytest.raises(StoreError, match=refused):
        store.remove(entry.digest)


def test_store_without_the_right_to_write_serves_reads(unprivileged_store: Store) -> None:
    unprivileged_store.ensure_writable()
    entry = train_toy(unprivileged_store, RECIPE)
    for path in (unprivileged_store.root, *unprivileged_store.root.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    assert [found.digest for found in unprivileged_store] == [entry.digest]
    with pytest.raises(StoreError, match="cannot be written"):
        unprivileged_store.ensure_writable()
    with pytest.raises(StoreError, match="cannot be written"), unprivileged_store.draft(toy_recipe(1)):
        pass


def test_owner_without_root_rights_commits_and_removes_read_only_entries(unprivileged_store: Store) -> None:
    entry = train_toy(unprivileged_store, RECIPE)
    unprivileged_store.remove(entry.digest)
    assert list(unprivileged_store) == []
    assert os.listdir(unprivileged_store.root / ".trash") == []


def test_folder_that_will_refuse_the_entry_is_noticed_before_training(unprivileged_store: Store) -> None:
    shard = unprivileged_store.root / RECIPE.digest[:2]
    shard.mkdir(parents=True, mode=0o555)
    with pytest.raises(StoreError, match="cannot be written"), unprivileged_store.draft(RECIPE):
        pass
    shard.chmod(0o755)
    with unprivileged_store.draft(RECIPE) as draft:
        assert commit_toy(draft).verify() == []


def test_reading_the_store_imports_nothing_heavy(store: Store, entry: Entry) -> None:
    script = (
        "import sys, pathlib, kdbench.store as s; list(s.Store(pathlib.Path(sys.argv[1])));"
        "print({'torch', 'pytorch_lightning', 'hydra', 'omegaconf', 'numpy'} & set(sys.modules))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    said = subprocess.run(
        [sys.executable, "-c", script, store.root], env=env, capture_output=True, text=True, check=True
    )
    assert said.stdout == "set()\n"
