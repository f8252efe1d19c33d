import os
import time
from pathlib import Path

import pytest
import torch

from kdbench.core.errors import StoreError
from kdbench.store.cache import OutputCache

ROWS = {"logits": torch.rand(4, 3)}
ONE, TWO = "ab" * 32, "cd" * 32


@pytest.fixture
def cache(tmp_path: Path) -> OutputCache:
    cache = OutputCache(tmp_path / "cache")
    for digest, name in ((ONE, "train-0"), (ONE, "test-0"), (TWO, "train-0")):
        cache.write(digest, name, {"of": digest}, ROWS, "a remark")
    return cache


def files(cache: OutputCache) -> list[str]:
    return sorted(str(path.relative_to(cache.root)) for path in cache.root.rglob("*") if path.is_file())


def test_rows_come_back_with_their_remark(cache: OutputCache) -> None:
    found = cache.open(ONE, "train-0", {"of": ONE})
    assert found is not None
    assert torch.equal(found[0]["logits"], ROWS["logits"])
    assert found[1] == "a remark"
    assert cache.open(ONE, "other", {"of": ONE}) is None


def test_gc_keeps_what_is_in_use(cache: OutputCache) -> None:
    before = files(cache)
    assert cache.gc({ONE, TWO}) == []
    assert files(cache) == before


def test_gc_removes_outputs_of_networks_that_are_gone_and_tells_before(cache: OutputCache) -> None:
    before = files(cache)
    told = cache.gc({ONE}, dry_run=True)
    assert files(cache) == before
    assert cache.gc({ONE}) == told
    assert [TWO in str(item.path) and "no longer in the store" in item.reason for item in told] == [True]
    assert not (cache.root / TWO[:2]).exists()


def test_gc_removes_what_was_not_opened_for_long(cache: OutputCache) -> None:
    old = time.time() - 8 * 86400
    for path in cache.root.rglob("*.safetensors"):
        os.utime(path, (old, old))
    cache.open(ONE, "test-0", {"of": ONE})
    removed = cache.gc({ONE, TWO})
    assert ["unused for 8 days" in item.reason for item in removed] == [True, True]
    assert files(cache) == [f"ab/{ONE}/test-0.safetensors"]


def test_gc_removes_what_a_kill_left_and_nothing_of_a_process_at_work(cache: OutputCache) -> None:
    folder = cache.root / ONE[:2] / ONE
    (folder / ".train-0.safetensors.123.tmp").write_bytes(b"half")
    (folder / "val-0.lock").touch()
    with cache.claim(ONE, "train-0", lambda: None):
        assert cache.gc(set(), dry_run=True, older_than_days=0) != []
        cache.gc({ONE, TWO})
        assert (folder / ".train-0.safetensors.123.tmp").exists()
    assert [item.reason for item in cache.gc({ONE, TWO})] == ["left by a write that was cut off"]
    assert sorted(path.name for path in folder.iterdir()) == ["test-0.safetensors", "train-0.safetensors"]


def test_a_disk_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="cache"):
        OutputCache(tmp_path / "cache").write(ONE, "train-0", {}, ROWS, "")
