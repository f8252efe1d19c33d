"""The allocator's settings: told once, and not to who chose for himself."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from kdbench.core.heap import keep_freed_memory

_FAULTS = """
import resource, torch
from kdbench.core.heap import keep_freed_memory
assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step = lambda: [torch.ones(size, 2**18) for size in (24, 3, 16, 9)]
for _ in range(5):  # until the heap is as large as a step needs
    step()
before = faults()
for _ in range(5):
    step()
print(faults() - before)
"""
GLIBC = keep_freed_memory()


@pytest.mark.skipif(not GLIBC, reason="not glibc, or somebody chose otherwise")
def test_steps_reuse_what_the_last_one_freed() -> None:
    done = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 5 * 52 * 2**20 // 4096 // 10  # a tenth of the pages


def test_the_allocator_is_told_three_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[int, int] = {}

    def mallopt(name: int, value: int) -> int:
        told[name] = value
        return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    assert keep_freed_memory()
    assert told == {-3: 32 * 2**20, -1: 2**30, -2: 64 * 2**20}  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())  # another libc
    assert not keep_freed_memory()


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_a_choice_of_the_users_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()
