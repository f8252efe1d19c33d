"""A step of every method on one pair: CPU time and memory, rounds interleaved; the cost column of docs/methods.md."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from benchmarks.pairs import TINY, Noted, Pair, chain_of, make_settings
from benchmarks.result import Row, Threshold
from kdbench.cli.methods import BASE, COSTS
from kdbench.config.compose import Composer
from kdbench.core.recipe import Recipe
from kdbench.core.types import Batch, Progress
from kdbench.runner import Trainer

PAIR = Pair("resnet32x4", "resnet8x4", 64)
MIDDLE = Progress(100, 200, 1)  # where every schedule counts
THRESHOLDS: list[Threshold] = []


class Alive(TorchDispatchMode):
    """Bytes of ``tensors`` and of what operations make, while alive; what a kernel needs inside is not seen."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary()
        for tensor in tensors:
            self._add(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            self._known[storage] = weakref.finalize(storage, self._gone, storage.nbytes())

    def _gone(self, size: int) -> None:
        self.now -= size


class _Stepper:
    """One method's training, driven step by step, in the last of its phases that asks the teacher."""

    def __init__(self, trainer: Trainer, recipe: Recipe) -> None:
        data = trainer.builder.data(recipe)
        student, teachers = trainer._networks(recipe, data)
        self._distiller = trainer.builder.distiller(
            recipe, student, teachers, data.spec, MIDDLE.steps_per_epoch
        ).train()
        self._distiller.progress = lambda: MIDDLE  # type: ignore[method-assign] (there is no trainer to ask)
        self._distiller.enter_phase(_asking_phase(recipe))
        self._optimizer: torch.optim.Optimizer = self._distiller.configure_optimizers()["optimizer"]
        self._batch: Batch = next(iter(trainer._train_loader(recipe, data)))

    def step(self) -> None:
        """One training step."""
        self._optimizer.zero_grad()
        self._distiller.training_step(self._batch, 0).backward()
        self._optimizer.step()
        with torch.no_grad():
            for criterion in self._distiller._active.values():
                criterion.after_step(MIDDLE)

    def seconds(self) -> float:
        """CPU time of a step: other processes on the machine do not count."""
        started = process_time()
        self.step()
        return process_time() - started

    def mebibytes(self) -> float:
        """What is held at the peak of a first step, networks, banks and the optimiser's state among it."""
        networks = (self._distiller, *self._distiller.teachers)
        tensors = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
        with Alive([*tensors, self._batch.inputs]) as alive:
            self.step()
        return alive.peak / 2**20


def _asking_phase(recipe: Recipe) -> int:
    """The last phase that has terms beside the task loss; the training proper where none has."""
    method = recipe.method or {"weights": {}}
    phases = [*method.get("phases", {}).values(), method]
    return max((at for at, phase in enumerate(phases) if phase["weights"].keys() - {"task"}), default=len(phases) - 1)


def run(outputs: Path, *, quick: bool, threads: int, rounds: int = 3) -> list[Row]:
    """CPU milliseconds and MiB of a step of every method; KD first, with which the others are compared."""
    pair, images, rounds = (TINY[0], 256, 1) if quick else (PAIR, 50_000, rounds)
    trainer = Trainer(make_settings(outputs, threads))
    names = [BASE, *(name for name in Composer().options("method") if name != BASE)][: 5 if quick else None]
    recipes = {name: _recipe(pair, trainer, name, images) for name in names}
    times: dict[str, list[float]] = {name: [] for name in recipes}
    memory: dict[str, float] = {}
    for _ in range(rounds):
        for name, recipe in recipes.items():
            stepper = _Stepper(trainer, recipe)
            memory[name] = stepper.mebibytes()  # also the step before the clock starts
            times[name].append(1000 * stepper.seconds())
    rows = [Row(str(pair), name, values, "CPU ms/step") for name, values in times.items()]
    rows += [Row(str(pair), name, [value], "MiB") for name, value in memory.items()]
    if not quick:
        write_costs(rows)
    return rows


def _recipe(pair: Pair, trainer: Trainer, method: str, images: int) -> Recipe:
    """The student's recipe, with its teachers in the store."""
    *teachers, student = chain_of(pair, trainer.settings.outputs, f"method={method}", steps=1, images=images)
    for teacher in teachers:
        trainer.make(teacher, Noted())
    return student


def write_costs(rows: Sequence[Row], file: Path = COSTS) -> None:
    """The ratios to KD, for the page of methods."""
    found = {(row.unit, row.name): row for row in rows}
    costs = {
        name: {what: round(found[unit, BASE].speed_over(found[unit, name]), 2)
               for what, unit in (("time", "CPU ms/step"), ("memory", "MiB"))}
        for name in sorted({row.name for row in rows})
    }  # fmt: skip
    file.write_text(json.dumps(costs, indent=1) + "\n")
