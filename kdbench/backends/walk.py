"""The walk over a plan: what is ready starts, what can no longer be made is given up; the same for every backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

from kdbench.core.errors import Stopped
from kdbench.core.recipe import Recipe
from kdbench.core.signals import raise_if_stopped
from kdbench.plan import Node, Plan
from kdbench.settings import Settings
from kdbench.sweep import Board, Outcome, blocked, describe_failure
from kdbench.watch import Screen, Watch


class Backend(Protocol):
    """Runs trainings somewhere; a context manager that leaves nothing running."""

    def start(self, node: Node) -> None:
        """Hands a training over; its teachers are in the store."""
        ...

    def poll(self, board: Board) -> dict[str, Outcome]:
        """Passes messages on for a moment; what ended meanwhile, by digest."""
        ...

    def stop(self, board: Board) -> dict[str, Outcome]:
        """Lets every training save its state and stop; how each ended, by digest."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def walk(plan: Plan, backend: Backend, board: Board, *, workers: int, skip: Mapping[str, str]) -> dict[str, Outcome]:
    """Makes what is missing, up to ``workers`` trainings at a time, each as soon as its teachers are there.

    Args:
        plan: What to make.
        backend: Where.
        board: Where progress is shown.
        workers: Trainings at a time.
        skip: Networks not to make, by digest, with the reason.

    Raises:
        Stopped: A signal asked for it; what was being trained can be resumed.
    """
    waiting = {recipe.digest: recipe for recipe in plan.missing}
    outcomes = {digest: Outcome("skipped", reason) for digest, reason in skip.items()}
    running: set[str] = set()
    try:
        while waiting or running:
            _settle(waiting, outcomes, board)
            for recipe in _ready(waiting, outcomes, plan)[: workers - len(running)]:
                del waiting[recipe.digest]
                board.begin(recipe)
                backend.start(plan.nodes[recipe.digest])
                running.add(recipe.digest)
            ended = backend.poll(board) if running else {}
            for digest, outcome in ended.items():
                outcomes[digest] = outcome
                running.remove(digest)
                board.end(plan.nodes[digest].recipe, outcome)
            raise_if_stopped()
    except BaseException:
        for digest, outcome in backend.stop(board).items():
            board.end(plan.nodes[digest].recipe, outcome)
        raise
    return outcomes


def make(node: Node, settings: Settings, screen: Screen) -> Outcome:
    """One training, in the process that a backend gave it.

    Raises:
        Stopped: A signal asked for it; the state has been saved.
    """
    from kdbench.runner import Trainer

    try:
        with Watch(node, settings, screen) as watch:
            watch.finish(Trainer(settings).make(node.recipe, watch, on_wait=watch.on_wait))
    except Stopped:
        raise
    except Exception as error:  # noqa: BLE001 (goes to the parent with its traceback)
        return describe_failure(error)
    return Outcome("done")


def _settle(waiting: dict[str, Recipe], outcomes: dict[str, Outcome], board: Board) -> None:
    """Gives up what can no longer be made: in order, so that descendants of descendants are found too."""
    for digest, recipe in list(waiting.items()):
        outcome = outcomes.get(digest) or blocked(recipe, outcomes)
        if outcome is not None:
            outcomes[digest] = outcome
            del waiting[digest]
            board.end(recipe, outcome)


def _ready(waiting: Mapping[str, Recipe], outcomes: Mapping[str, Outcome], plan: Plan) -> list[Recipe]:
    def there(recipe: Recipe) -> bool:
        node = plan.nodes[recipe.digest]
        return node.entry is not None or outcomes.get(recipe.digest, Outcome("failed")).status == "done"

    return [recipe for recipe in waiting.values() if all(there(teacher) for teacher in recipe.teachers)]
