"""Seconds from Enter: to help, to a config, to the first step of training; and to that in a warm worker."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, time

from benchmarks.result import Row, Threshold

GROUP = "from Enter"
HELP, CONFIG, FIRST, WARM = "kdbench --help", "kdbench --cfg job", "first step", "first step in a warm worker"

# The command itself, with the moment of its first step written to where the measuring process looks for it.
_FIRST_STEP = """
import sys, time
from kdbench.watch import Watch
from kdbench.cli import main
seen = Watch.on_step
def on_step(self, step, epoch):
    open(sys.argv[1], "a").write(f"{time.time()}\\n")
    Watch.on_step = seen
Watch.on_step = on_step
sys.exit(main(sys.argv[2:]))
"""


def _command(arguments: Sequence[str], outputs: Path) -> float:
    started = perf_counter()
    environment = {**os.environ, "KDBENCH_OUTPUTS": str(outputs)}
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment)
    return perf_counter() - started


def _first_step(outputs: Path) -> float:
    with tempfile.NamedTemporaryFile("r") as moment:
        started = time()
        _command(["-c", _FIRST_STEP, moment.name, "trainer.max_epochs=1", "trainer.limit_train_batches=2"], outputs)
        return float(moment.readline()) - started


def run(outputs: Path, *, quick: bool, threads: int) -> list[Row]:
    """Seconds of every way to start."""
    from benchmarks.sweep import warm_jobs

    rounds = 1 if quick else 5
    found: dict[str, list[float]] = {HELP: [], CONFIG: [], FIRST: []}
    for number in range(rounds):
        found[HELP].append(_command(["-m", "kdbench", "--help"], outputs))
        found[CONFIG].append(_command(["-m", "kdbench", "--cfg", "job"], outputs))
        found[FIRST].append(_first_step(outputs / str(number)))
    found[WARM] = [job.first_step for job in warm_jobs(outputs / "warm", jobs=2 if quick else 6, threads=threads)]
    return [Row(GROUP, name, values, "s") for name, values in found.items()]


THRESHOLDS = [Threshold(GROUP, HELP, most=0.6), Threshold(GROUP, CONFIG, most=0.6), Threshold(GROUP, FIRST, most=6.0),
              Threshold(GROUP, WARM, most=0.5)]  # fmt: skip
