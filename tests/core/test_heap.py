"""The allocator's settings: told once, and not to who chose for himself."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kdbench.core.heap import keep_freed_memory

_FAULTS = """
import resource, sys, torch
from kdbench.core.heap import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
step = lambda: [torch.ones(6, 2**20) for _ in range(4)]  # 24 MiB each
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(way: str) -> int:
    done = subprocess.run([sys.executable, "-c", _FAULTS, way], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not keep_freed_memory(), reason="not glibc, or somebody chose otherwise")
def test_steps_reuse_what_the_last_one_freed() -> None:
    assert _faults("kept") < _faults("free") // 10


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_a_choice_of_the_users_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()
