"""Trainings in several phases: what a method's YAML says of them, and when each holds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kdbench.core.errors import Problems, nearest

TRAIN = ("student", "taps", "criteria")
_KEYS = ("epochs", "weights", "train", "optim")


@dataclass(frozen=True)
class Phase:
    """A stretch of a training under one optimiser, whose schedules begin and end with it.

    Attributes:
        epochs: How many.
        weights: Number or schedule of each term that counts; no other term is computed.
        optim: Optimiser and schedule.
        frozen: Module paths within the student that stay as they are, in eval mode; the empty path is all of it.
        where: Where its optimiser stands in a config, for error lines.
    """

    epochs: int
    weights: Mapping[str, Any]
    optim: Mapping[str, Any]
    frozen: tuple[str, ...] = ()
    where: str = "optim"


def resolve_phases(phases: Mapping[str, Any], max_epochs: int) -> dict[str, Any]:
    """What comes before the training proper, as a recipe has it: epochs as whole numbers, nothing of none.

    Args:
        phases: ``method.phases``: for each phase ``epochs`` (below 1: a part of ``max_epochs``, rounded up),
            ``weights``, ``train`` (``student``; ``taps``: up to the taps that it reads; ``criteria``: no part of it)
            and an optimiser of its own, ``optim``.
        max_epochs: Epochs of the training proper.

    Raises:
        ConfigError: A key is unknown or missing, or a value is not of its kind; all of them, one line each.
    """
    problems = Problems()
    for name, phase in phases.items():
        problems.add(*_problems(f"method.phases.{name}", phase))
    problems.check()
    whole = {name: _whole(phase["epochs"], max_epochs) for name, phase in phases.items()}
    return {name: {**phase, "epochs": whole[name]} for name, phase in phases.items() if whole[name]}


def _problems(where: str, phase: Any) -> Iterator[str]:
    if not isinstance(phase, Mapping):
        yield f"{where}: a mapping of {', '.join(_KEYS)} is expected"
        return
    yield from (f"{where}.{key}: unknown{nearest(str(key), _KEYS)}" for key in phase if key not in _KEYS)
    if missing := [key for key in _KEYS if key not in phase]:
        yield f"{where}: lacks {', '.join(missing)}"
        return
    epochs, train, optim = phase["epochs"], phase["train"], phase["optim"]
    if not (isinstance(epochs, int | float) and (0 <= epochs < 1 or float(epochs).is_integer()) and epochs >= 0):
        yield f"{where}.epochs={epochs}: a whole number is expected, or a part of trainer.max_epochs below 1"
    if train not in TRAIN:
        yield f"{where}.train={train}: unknown{nearest(str(train), TRAIN)}"
    if not isinstance(optim, Mapping) or not {"_target_", "schedule"} <= optim.keys():
        yield f"{where}.optim: a whole optimiser is expected, with _target_ and schedule, as in configs/optim"
    elif isinstance(lr := optim.get("lr"), int | float) and lr <= 0:
        yield f"{where}.optim.lr={lr}: must be greater than 0"


def _whole(epochs: float, max_epochs: int) -> int:
    return math.ceil(round(epochs * max_epochs, 6)) if epochs < 1 else int(epochs)
