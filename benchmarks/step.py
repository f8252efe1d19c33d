"""A step of training: kdbench with everything on, against loops written by hand, interleaved in one process."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from torch import nn

from benchmarks.loops import Batches, Loop, bare_loop, repdistiller_loop, takd_loop
from benchmarks.pairs import PAIRS, TINY, Noted, Pair, make_settings, with_teacher
from benchmarks.result import Row, Threshold
from kdbench.core.recipe import Recipe
from kdbench.data.loader import TrainLoader
from kdbench.runner import Trainer

WARM = 3  # steps before the clock starts
BARE, LAST, HALF = "bare loop", "bare loop, channels_last", "bare loop, channels_last, bf16"
OURS, OURS_HALF = "kdbench", "kdbench, bf16-mixed"
TAKD, REPDISTILLER = "TAKD's released code", "RepDistiller"

# kdbench's rows: what is typed for each. A further mode of kdbench is a further line.
MODES: Mapping[str, tuple[str, ...]] = {
    OURS: (),
    "kdbench, teacher in bf16": ("trainer.teacher_precision=bf16-mixed",),
    OURS_HALF: ("trainer.precision=bf16-mixed",),
}

Measure = Callable[[int], float]  # so many steps -> seconds per step


class _Steps(Noted):
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, step: int, epoch: int) -> None:
        self.times.append(perf_counter())


def of_loop(loop: Loop) -> Measure:
    """Seconds per step of a loop."""

    def measure(steps: int) -> float:
        loop(WARM)
        started = perf_counter()
        loop(steps)
        return (perf_counter() - started) / steps

    return measure


def of_kdbench(trainer: Trainer, recipe: Recipe) -> Measure:
    """A whole training per round, under another seed each time so that none is found in the store."""
    seeds = iter(range(1_000_000))

    def measure(steps: int) -> float:
        watched = _Steps()
        budget = {**recipe.budget, "limit_train_batches": steps + WARM}
        trainer.make(replace(recipe, budget=budget, seed=next(seeds)), watched)
        return (watched.times[-1] - watched.times[WARM - 1]) / steps

    return measure


def parts_of(pair: Pair, trainer: Trainer, recipe: Recipe) -> tuple[nn.Module, nn.Module, Batches]:
    """Teacher, student and eight batches for loops; networks in PyTorch's own layout."""
    data = trainer.builder.data(recipe)
    student, teacher = trainer.builder.network(recipe, data.spec), trainer.builder.trained(recipe.teachers[0].digest)
    loader = TrainLoader(data.train, pair.batch_size, seed=0)
    batches = [(batch.inputs, batch.target) for batch, _ in zip(loader, range(8), strict=False)]
    contiguous = [copy.deepcopy(network).to(memory_format=torch.contiguous_format) for network in (teacher, student)]
    return contiguous[0], contiguous[1], batches


def measured(measures: Mapping[str, Measure], steps: int, rounds: int, group: str) -> list[Row]:
    """Milliseconds per step of each, in rounds so that noise of the machine hits all."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(1000 * measure(steps))
    return [Row(group, name, values, "ms/step") for name, values in found.items()]


def enough_steps(pair: Pair, trainer: Trainer) -> int:
    """So many that the bare loop takes three seconds for them; six at least."""
    loop = bare_loop(*parts_of(pair, trainer, with_teacher(pair, trainer, steps=8)))
    return max(6, round(3.0 / of_loop(loop)(3)))


def _measures(pair: Pair, trainer: Trainer, steps: int) -> dict[str, Measure]:
    teacher, student, batches = parts_of(pair, trainer, with_teacher(pair, trainer, steps=steps + WARM))
    plain: dict[str, Callable[..., Loop]] = {
        BARE: bare_loop,
        LAST: partial(bare_loop, layout=torch.channels_last),
        HALF: partial(bare_loop, layout=torch.channels_last, autocast=torch.bfloat16),
        TAKD: takd_loop,
        REPDISTILLER: repdistiller_loop,
    }
    loops = {name: of_loop(loop(*copy.deepcopy((teacher, student)), batches)) for name, loop in plain.items()}
    ours = {
        name: of_kdbench(trainer, with_teacher(pair, trainer, *typed, steps=steps + WARM))
        for name, typed in MODES.items()
    }
    return {**loops, **ours}


def run(outputs: Path, *, quick: bool, threads: int, pairs: tuple[Pair, ...] | None = None) -> list[Row]:
    """Milliseconds per step of every loop on every pair."""
    trainer, rounds = Trainer(make_settings(outputs, threads)), 2 if quick else 5
    rows = []
    for pair in pairs or (TINY if quick else PAIRS):
        steps = 4 if quick else enough_steps(pair, trainer)
        rows += measured(_measures(pair, trainer, steps), steps, rounds, str(pair))
    return rows


def _thresholds() -> list[Threshold]:
    plain, wide, deep, small = map(str, PAIRS)
    own = [
        Threshold(str(pair), ours, limit, least=0.95)
        for pair in PAIRS
        for ours, limit in ((OURS, LAST), (OURS_HALF, HALF))
    ]
    against = [
        Threshold(group, OURS, REPDISTILLER, least=least) for group, least in ((wide, 1.05), (deep, 1.2), (small, 1.3))
    ]
    halves = [Threshold(group, OURS_HALF, REPDISTILLER, least=1.8) for group in (wide, deep, small)]
    takd = [Threshold(plain, OURS, TAKD, least=2.9), Threshold(plain, OURS_HALF, TAKD, least=5.2)]
    return [*own, *against, *halves, *takd]


THRESHOLDS = _thresholds()
