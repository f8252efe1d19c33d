"""A sweep: what a job costs beside its training, workers against one another, and what the plan shares."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from time import perf_counter, time

from benchmarks.result import Row, Threshold
from kdbench.backends import walk
from kdbench.backends.process import ProcessBackend
from kdbench.config.compose import Composer
from kdbench.config.jobs import make_jobs
from kdbench.config.recipes import ChainBuilder
from kdbench.core.recipe import Recipe
from kdbench.plan import make_plan
from kdbench.settings import make_settings
from kdbench.store import Store
from kdbench.sweep import Outcome

OVERHEAD, JOB = "a job in a warm worker", "beside its training"
STUDY, TWO, ONE, UNPINNED = (
    "8 students, Fashion-MNIST's shape",
    "2 workers",
    "1 worker",
    "2 workers, threads not pinned",
)
SHARING, SHARED, APART = "all chains plain10 .. plain2, seed 0", "trainings, shared", "trainings, a pipeline per chain"
PLANNING = "planning 10,000 jobs"


@dataclass
class Job:
    """What was seen of one job, seconds since it was started.

    Attributes:
        first_step: Until its first step (the worker tells at most every 0.1 s, its first step at once).
        overhead: All of it but the training that its entry records.
    """

    started: float
    first_step: float = 0.0
    overhead: float = 0.0


class _Board:
    def __init__(self, store: Store) -> None:
        self.jobs: dict[str, Job] = {}
        self._store = store

    def begin(self, recipe: Recipe) -> None:
        self.jobs[recipe.digest] = Job(time())

    def step(self, recipe: Recipe, step: int, epoch: int) -> None:
        job = self.jobs[recipe.digest]
        job.first_step = job.first_step or time() - job.started

    def row(self, recipe: Recipe, row: Mapping[str, float]) -> None:
        pass

    def note(self, recipe: Recipe, text: str) -> None:
        pass

    def end(self, recipe: Recipe, outcome: Outcome) -> None:
        entry = self._store.get(recipe.digest)
        assert entry is not None, outcome
        job = self.jobs[recipe.digest]
        job.overhead = time() - job.started - entry.metrics["seconds"]["total"]


def warm_jobs(outputs: Path, *, jobs: int, threads: int) -> list[Job]:
    """Short trainings on the digits, one after the other in workers forked from one warm server."""
    seeds = ",".join(map(str, range(jobs + 1)))
    command = ["teacher=none", f"seed={seeds}", "trainer.max_epochs=1", "trainer.limit_train_batches=4",
               f"trainer.threads={threads}", f"paths.outputs={outputs}"]  # fmt: skip
    store = Store(outputs / "store")
    made = make_jobs(Composer(), command, multirun=True)
    chains = [ChainBuilder(store, lambda *_: None).build(job) for job in made]
    board = _Board(store)
    with ProcessBackend(make_settings(chains, workers=1, share=threads, multirun=True)) as backend:
        walk(make_plan(chains, store), backend, board, workers=1, skip={})
    return list(board.jobs.values())[1:]  # the first one waits for the server


def _study(outputs: Path, *typed: str, quick: bool) -> float:
    """Seconds of the command ``kdbench -m`` as a user types it."""
    images, epochs = (256, 1) if quick else (4000, 2)
    command = [
        "-m", "kdbench", "-m", "dataset=fake", "dataset.channels=1", "dataset.image_size=28",
        f"dataset.sizes.train={images}", "teacher=none", "student=plain2,plain4", "seed=0,1,2,3",
        f"trainer.max_epochs={epochs}", f"paths.outputs={outputs}", *typed,
    ]  # fmt: skip
    free = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    started = perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True, env=free)
    return perf_counter() - started


def _sharing(outputs: Path) -> tuple[int, int]:
    """Trainings for every chain from plain10 down to plain2: those in the plan, and one after the other without it."""
    between = ("plain8", "plain6", "plain4")
    chosen = [f"[{','.join(names)}]" for size in range(4) for names in combinations(between, size)]
    command = ["teacher=plain10", "student=plain2", f"assistants={','.join(chosen)}", f"paths.outputs={outputs}"]
    store = Store(outputs / "store")
    made = make_jobs(Composer(), command, multirun=True)
    chains = [ChainBuilder(store, lambda *_: None).build(job) for job in made]
    return len(make_plan(chains, store).missing), sum(len(chain.links) for chain in chains)


def _planning(outputs: Path, jobs: int) -> float:
    from kdbench.cli import main

    started = perf_counter()
    with redirect_stdout(io.StringIO()):
        main(["dry_run=true", "-m", f"seed=range({jobs})", f"paths.outputs={outputs}"])
    return perf_counter() - started


def run(outputs: Path, *, quick: bool, threads: int) -> list[Row]:
    """Seconds of jobs and sweeps; numbers of trainings."""
    overheads = [job.overhead for job in warm_jobs(outputs / "warm", jobs=2 if quick else 6, threads=threads)]
    cores = len(os.sched_getaffinity(0))
    ways = {ONE: ("sweep.workers=1",), TWO: ("sweep.workers=2",),
            UNPINNED: ("sweep.workers=2", f"trainer.threads={max(cores, 2)}")}  # fmt: skip
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(1 if quick else 5):
        for name, typed in ways.items():
            folder = outputs / f"{name} {number}".replace(" ", "-").replace(",", "")
            found[name].append(_study(folder, *typed, quick=quick))
    shared, apart = _sharing(outputs)
    jobs = 100 if quick else 10_000
    return [
        Row(OVERHEAD, JOB, overheads, "s"),
        *(Row(STUDY, name, values, "s") for name, values in found.items()),
        Row(SHARING, APART, [apart], "trainings"),
        Row(SHARING, SHARED, [shared], "trainings"),
        Row(PLANNING, f"{jobs} jobs", [_planning(outputs, jobs)], "s"),
    ]


THRESHOLDS = [
    Threshold(OVERHEAD, JOB, most=0.3),
    Threshold(STUDY, TWO, ONE, least=1.15),
    Threshold(STUDY, TWO, UNPINNED, least=3.0),
    Threshold(SHARING, SHARED, most=16),
    Threshold(PLANNING, "10000 jobs", most=60),
]
