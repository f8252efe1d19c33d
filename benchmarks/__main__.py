"""``python -m benchmarks NAME``: measures, prints, writes ``outputs/bench/NAME.json``; see ``docs/performance.md``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from pathlib import Path

BENCHES = ("step", "data", "cache", "sweep", "startup", "memory")


def main() -> int:
    """0; 1 if ``--check`` finds a row below its threshold."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="What kdbench costs, measured.")
    parser.add_argument("bench", choices=BENCHES)
    parser.add_argument("--quick", action="store_true", help="a few seconds on tiny networks: shows that it runs")
    parser.add_argument("--check", action="store_true", help="compare with the thresholds; exit status 1 below them")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # read when torch is imported, here and in workers
    from benchmarks.result import print_table, write_json

    bench = importlib.import_module(f"benchmarks.{arguments.bench}")
    with tempfile.TemporaryDirectory(prefix="kdbench-bench-") as outputs:
        rows = bench.run(Path(outputs), quick=arguments.quick, threads=arguments.threads)
    print_table(rows)
    print(write_json(arguments.bench, rows, Path(os.environ.get("KDBENCH_OUTPUTS", "outputs")) / "bench"))
    failures = [failure for threshold in bench.THRESHOLDS if (failure := threshold.failure(rows))]
    if arguments.check:
        print(*failures or ["all thresholds are met"], sep="\n")
    return int(arguments.check and bool(failures))


if __name__ == "__main__":
    sys.exit(main())
