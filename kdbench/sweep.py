"""Walks a plan's networks, teachers before those they teach: what executors share, and the one in this process."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from kdbench.core.errors import Stopped, UserError
from kdbench.core.recipe import Recipe
from kdbench.core.signals import raise_if_stopped
from kdbench.plan import Plan
from kdbench.settings import Settings
from kdbench.watch import Screen, Watch

Status = Literal["done", "in store", "failed", "skipped", "stopped"]


@dataclass(frozen=True)
class Outcome:
    """How the making of one network ended.

    Attributes:
        status: ``skipped`` if what teaches it failed.
        reason: One line, where it did not end well.
        details: The traceback, where something unforeseen was raised.
    """

    status: Status
    reason: str = ""
    details: str = ""


STOPPED = Outcome("stopped", "a signal asked for it; the same command goes on from here")
TOO_SLOW = Outcome("stopped", "it did not stop in time and was killed")


class Board(Screen, Protocol):
    """A screen for many trainings."""

    def begin(self, recipe: Recipe) -> None:
        """A training starts."""
        ...

    def end(self, recipe: Recipe, outcome: Outcome) -> None:
        """It ended, or will not start."""
        ...


def describe_failure(error: BaseException) -> Outcome:
    """The outcome of an exception: its own words if it was made for users, its traceback if not."""
    if isinstance(error, UserError):
        return Outcome("failed", error.problems[0])
    reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
    return Outcome("failed", reason, "".join(traceback.format_exception(error)))


def blocked(recipe: Recipe, outcomes: Mapping[str, Outcome]) -> Outcome | None:
    """Why a network cannot be made any more: what was to teach it was not."""
    for teacher in recipe.teachers:
        outcome = outcomes.get(teacher.digest)
        if outcome is not None and outcome.status not in ("done", "in store"):
            return Outcome("skipped", f"its teacher {teacher.name} ({teacher.digest[:8]}) {outcome.status}")
    return None


def run_here(plan: Plan, settings: Settings, board: Board) -> dict[str, Outcome]:
    """Makes what is missing one after the other in this process.

    Raises:
        Stopped: A signal asked for it; what was being trained can be resumed.
    """
    from kdbench.runner import Trainer

    trainer = Trainer(settings)
    outcomes: dict[str, Outcome] = {}
    for recipe in plan.missing:
        raise_if_stopped()
        if outcome := blocked(recipe, outcomes):
            outcomes[recipe.digest] = outcome
            board.end(recipe, outcome)
            continue
        board.begin(recipe)
        try:
            with Watch(plan.nodes[recipe.digest], settings, board) as watch:
                watch.finish(trainer.make(recipe, watch, on_wait=watch.on_wait))
            outcomes[recipe.digest] = Outcome("done")
        except Stopped:
            board.end(recipe, STOPPED)
            raise
        except Exception as error:  # noqa: BLE001 (recorded with its traceback; the others go on)
            outcomes[recipe.digest] = describe_failure(error)
        board.end(recipe, outcomes[recipe.digest])
    return outcomes
