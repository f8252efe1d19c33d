"""Resident memory of a process that trains resnet32x4 -> resnet8x4 on data of CIFAR's size, and of a second one."""

from __future__ import annotations

import multiprocessing
import resource
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.pairs import TINY, Noted, Pair, chain_of, make_settings
from benchmarks.result import Row, Threshold

PAIR, STEPS = Pair("resnet32x4", "resnet8x4", 64), 3
ONE = "one process, peak"


def _train(connection: Connection, link: int, outputs: Path, pair: Pair, images: int, threads: int) -> None:
    import kdbench.core.lean  # noqa: F401
    from kdbench.runner import Trainer

    recipe = chain_of(pair, outputs, steps=STEPS, images=images)[link]
    outputs.mkdir(parents=True, exist_ok=True)
    Trainer(replace(make_settings(outputs, threads), shared=outputs)).make(recipe, Noted())
    connection.send((_own(outputs), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**20))


def _own(shared: Path) -> float:
    """MiB that no other process has, files in ``shared`` apart: what this one would give back if it ended."""
    own, counted = 0, True
    for row in Path("/proc/self/smaps").read_text().splitlines():
        key, *values = row.split()
        if not key.endswith(":"):  # the next mapping, with its file
            counted = str(shared) not in row
        elif counted and key.startswith("Private_"):
            own += int(values[0])
    return own / 1024


def _measured(*what: Any) -> tuple[float, float]:
    """MiB at the end that are its own, and MiB resident at the peak, of a training in a fresh worker."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kdbench.core.lean", "kdbench.runner"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_train, args=(theirs, *what))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


def run(outputs: Path, *, quick: bool, threads: int) -> list[Row]:
    """MiB of a training, and what a worker of a sweep holds beyond the libraries that all of them share."""
    pair, images, rounds = (TINY[0], 512, 1) if quick else (PAIR, 50_000, 3)
    found = []
    for number in range(rounds):
        _, student = (_measured(link, outputs / str(number), pair, images, threads) for link in (0, 1))
        found.append(student)
    own, peak = zip(*found, strict=True)
    return [Row(str(pair), ONE, peak, "MiB"), Row(str(pair), "a worker more, own memory", own, "MiB own")]


THRESHOLDS = [Threshold(str(PAIR), ONE, most=1.2 * 1024)]
