"""Each bench runs in its quick mode and writes what it measured; how fast anything is, is asserted nowhere here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.result import Row, Threshold
from tests.conftest import REPO


@pytest.mark.parametrize("bench", ["step", "data", "cache", "memory"])  # those of commands take minutes
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
