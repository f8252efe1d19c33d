"""One data set in memory for all processes of a sweep."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.data.load import DataSplits, load_data
from kdbench.data.sharing import made_once


def _same(ours: DataSplits, theirs: DataSplits) -> bool:
    pairs = zip((ours.train, ours.test), (theirs.train, theirs.test), strict=True)
    return all(torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in pairs)


def test_what_is_shared_is_what_a_process_alone_would_load(
    config_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = config_of("digits")
    alone, shared = load_data(config, tmp_path), load_data(config, tmp_path, tmp_path)
    assert _same(alone, shared)
    assert shared.spec.mean == alone.spec.mean
    assert isinstance(shared.train.images, torch.Tensor)
    assert shared.train.images.is_contiguous(memory_format=torch.channels_last)
    smaller = load_data(config_of("digits", train_size=100), tmp_path, tmp_path)
    assert len(smaller.train) == 100  # another file


def test_the_second_process_makes_nothing(tmp_path: Path) -> None:
    made_once(tmp_path / "x", lambda: torch.arange(3))
    assert made_once(tmp_path / "x", lambda: pytest.fail("made twice")).tolist() == [0, 1, 2]


def _own_mebibytes() -> float:
    rows = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith("Anonymous:")) / 1024


def _use(folder: Path, queue: multiprocessing.Queue[float]) -> None:
    before = _own_mebibytes()
    big = made_once(folder / "big", lambda: torch.ones(64 * 2**20, dtype=torch.uint8))
    assert int(big[:: 2**12].sum()) == 2**14  # every page is touched
    queue.put(_own_mebibytes() - before)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells what a process shares")
def test_mapped_images_are_no_memory_of_a_process_of_its_own(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    queue: multiprocessing.Queue[float] = context.Queue()
    for _ in range(2):  # the first one makes them, and gives its copy back
        process = context.Process(target=_use, args=(tmp_path, queue))
        process.start()
        assert queue.get(timeout=120) < 16
        process.join()


def test_where_there_is_no_room_a_process_keeps_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert made_once(tmp_path / "x", lambda: torch.arange(3)).tolist() == [0, 1, 2]
    assert not (tmp_path / "x").exists()
