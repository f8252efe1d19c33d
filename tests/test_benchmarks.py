"""Each bench runs in its quick mode and writes what it measured; how fast anything is, is asserted nowhere here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.methods import Alive, write_costs
from benchmarks.result import Row, Threshold
from kdbench.cli import methods
from tests.conftest import REPO


@pytest.mark.parametrize("bench", ["step", "data", "cache", "memory", "methods"])  # those of commands take minutes
def test_a_bench_prints_a_table_and_writes_every_value(bench: str, outputs: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", bench, "--quick", "--threads", "1"]
    ran = subprocess.run(command, cwd=REPO, env=os.environ, capture_output=True, text=True, check=True)
    found = json.loads((outputs / "bench" / f"{bench}.json").read_text())
    assert found["machine"]["threads"] == 1 or bench == "memory"
    assert all(value > 0 for row in found["rows"] for value in row["values"])
    assert all(row["name"] in ran.stdout for row in found["rows"])


def test_a_ratio_is_that_of_the_rounds_and_a_threshold_names_what_is_below_it() -> None:
    slow, fast = Row("g", "slow", [2.0, 20.0, 4.0], "ms"), Row("g", "fast", [1.0, 10.0, 2.0], "ms")
    assert fast.speed_over(slow) == 2.0
    assert Row("g", "a", [6.0], "images/s", per_second=True).speed_over(Row("g", "b", [3.0], "images/s", True)) == 2.0
    assert Threshold("g", "fast", "slow", least=1.9).failure([slow, fast]) is None
    assert Threshold("g", "fast", "slow", least=2.1).failure([slow, fast]) == "g: fast over slow: 2 < 2.1"
    assert Threshold("g", "slow", most=3.0).failure([slow]) == "g: slow [ms]: 4 > 3"
    assert Threshold("other", "slow", most=3.0).failure([slow]) is None


def test_costs_of_methods_are_multiples_of_kd_and_reach_their_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Row("g", "kd", [10.0, 20.0, 10.0], "CPU ms/step"), Row("g", "at", [20.0, 40.0, 70.0], "CPU ms/step")]
    rows += [Row("g", "kd", [100.0], "MiB"), Row("g", "at", [150.0], "MiB")]
    file = tmp_path / "costs.json"
    write_costs(rows, file)
    assert json.loads(file.read_text()) == {"at": {"time": 2.0, "memory": 1.5}, "kd": {"time": 1.0, "memory": 1.0}}
    monkeypatch.setattr(methods, "COSTS", file)
    cells = {row.method: row.cost for row in methods.method_rows()}
    assert (cells["at"], cells["kd"], cells["sp"]) == ("2.0 / 1.5", "1.0 / 1.0", "-")


def test_memory_is_that_of_tensors_alive_together() -> None:
    kept = torch.zeros(2**18)  # a MiB
    with Alive([kept]) as alive:
        for _ in range(3):
            torch.ones(2**19).add_(1).sum()
        held = kept + 1
    assert 3 * 2**20 <= alive.peak < 3.1 * 2**20
    assert held.numel() == 2**18
