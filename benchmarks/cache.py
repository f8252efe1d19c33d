"""A step with ``cache=teacher`` on images as they are: what asking once is worth, and how near it is to the limit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from benchmarks.loops import Loop, bare_loop, repdistiller_loop, takd_loop
from benchmarks.pairs import PAIRS, TINY, Pair, make_settings, with_teacher
from benchmarks.result import Row, Threshold
from benchmarks.step import (
    BARE,
    REPDISTILLER,
    TAKD,
    WARM,
    Measure,
    enough_steps,
    measured,
    of_kdbench,
    of_loop,
    parts_of,
)
from kdbench.runner import Trainer

READY, READY_HALF = "bare loop, logits ready, channels_last", "bare loop, logits ready, channels_last, bf16"
OURS, OURS_HALF = "kdbench cache=teacher", "kdbench cache=teacher, bf16-mixed"
PLAIN = "dataset.augment=none"  # TAKD's own protocol


def _measures(pair: Pair, trainer: Trainer, steps: int) -> Mapping[str, Measure]:
    teacher, student, batches = parts_of(pair, trainer, with_teacher(pair, trainer, PLAIN, steps=steps + WARM))
    last = partial(bare_loop, layout=torch.channels_last)
    loops: dict[str, Callable[..., Loop]] = {
        BARE: bare_loop,
        READY: partial(last, known=True),
        READY_HALF: partial(last, known=True, autocast=torch.bfloat16),
        TAKD: takd_loop,
        REPDISTILLER: repdistiller_loop,
    }
    kdbench = {OURS: (), OURS_HALF: ("trainer.precision=bf16-mixed",)}
    return {
        **{name: of_loop(loop(*copy.deepcopy((teacher, student)), batches)) for name, loop in loops.items()},
        **{name: of_kdbench(trainer, with_teacher(pair, trainer, PLAIN, *typed, steps=steps + WARM))
           for name, typed in kdbench.items()},
    }  # fmt: skip


def run(outputs: Path, *, quick: bool, threads: int) -> list[Row]:
    """Milliseconds per step; the pass that fills the cache, once for all students and seeds, is not counted."""
    trainer, rounds = Trainer(make_settings(outputs, threads, cache=True)), 2 if quick else 5
    rows = []
    for pair in TINY if quick else PAIRS:
        steps = 4 if quick else 2 * enough_steps(pair, trainer)
        rows += measured(_measures(pair, trainer, steps), steps, rounds, str(pair))
    return rows


# Times of a plain bare loop that one with logits ready reached, in float32 and in bf16, when the limit was set.
# The bare loops here run kdbench's networks and heap settings, and are faster; the table shows them beside ours.
LIMITS = dict(zip(PAIRS, ((5.1, 7.6), (3.1, 5.4), (2.4, 3.3), (2.5, 3.2)), strict=True))
_PLAIN, _WIDE = str(PAIRS[0]), str(PAIRS[1])
THRESHOLDS = [
    *(Threshold(str(pair), ours, BARE, least=0.93 * limit) for pair, limits in LIMITS.items()
      for ours, limit in zip((OURS, OURS_HALF), limits, strict=True)),
    Threshold(_PLAIN, OURS, TAKD, least=10), Threshold(_PLAIN, OURS_HALF, TAKD, least=17),
    Threshold(_WIDE, OURS_HALF, REPDISTILLER, least=5),
]  # fmt: skip
