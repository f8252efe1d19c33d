"""The executor: walks a plan's networks, teachers before students, in this process or in one process per training."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, Protocol

from kdbench.core.errors import Stopped, UserError
from kdbench.core.recipe import Recipe
from kdbench.core.signals import raise_if_stopped, stopping_safely
from kdbench.plan import Plan
from kdbench.settings import Settings

BACKENDS = ("process",)
PRELOAD = (
    "torch",
    "pytorch_lightning",
    "kdbench.runner",
)  # imported once, in the server that trainings are forked from
GRACE = 60.0  # seconds for a stopped training to save its state
REPORT_EVERY = 0.1  # seconds between a worker's messages about its progress

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


class Screen(Protocol):
    """Where progress is shown."""

    def begin(self, recipe: Recipe) -> None:
        """A training starts."""
        ...

    def step(self, recipe: Recipe, step: int, epoch: int) -> None:
        """It is at ``step``."""
        ...

    def row(self, recipe: Recipe, row: Mapping[str, float]) -> None:
        """An epoch ended with these numbers."""
        ...

    def note(self, recipe: Recipe, text: str) -> None:
        """Something the user should know."""
        ...

    def end(self, recipe: Recipe, outcome: Outcome) -> None:
        """It ended."""
        ...


def describe_failure(error: BaseException) -> Outcome:
    """The outcome of an exception: its own words if it was made for users, its traceback if not."""
    if isinstance(error, UserError):
        return Outcome("failed", error.problems[0])
    reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
    return Outcome("failed", reason, "".join(traceback.format_exception(error)))


# -- in this process ----------------------------------------------------------------------------------------------


def run_here(plan: Plan, settings: Settings, screen: Screen) -> dict[str, Outcome]:
    """Makes what is missing one after the other in this process.

    Raises:
        Stopped: A signal asked for it; what was being trained can be resumed.
    """
    from kdbench.runner import Trainer
    from kdbench.watch import Watch

    trainer = Trainer(settings)
    outcomes: dict[str, Outcome] = {}
    for recipe in plan.missing:
        raise_if_stopped()
        if blocked := _blocked(recipe, outcomes):
            outcomes[recipe.digest] = blocked
            screen.end(recipe, blocked)
            continue
        screen.begin(recipe)
        try:
            with Watch(plan.nodes[recipe.digest], settings, _Direct(recipe, screen)) as watch:
                watch.finish(trainer.make(recipe, watch, on_wait=watch.on_wait))
            outcomes[recipe.digest] = Outcome("done")
        except Stopped:
            screen.end(recipe, Outcome("stopped", "a signal asked for it; the same command goes on from here"))
            raise
        except Exception as error:  # noqa: BLE001 (recorded with its traceback; the others go on)
            outcomes[recipe.digest] = describe_failure(error)
        screen.end(recipe, outcomes[recipe.digest])
    return outcomes


@dataclass(frozen=True)
class _Direct:
    recipe: Recipe
    screen: Screen

    def step(self, step: int, epoch: int) -> None:
        self.screen.step(self.recipe, step, epoch)

    def row(self, row: Mapping[str, float]) -> None:
        self.screen.row(self.recipe, row)

    def note(self, text: str) -> None:
        self.screen.note(self.recipe, text)


def _blocked(recipe: Recipe, outcomes: Mapping[str, Outcome]) -> Outcome | None:
    for teacher in recipe.teachers:
        outcome = outcomes.get(teacher.digest)
        if outcome is not None and outcome.status in ("failed", "skipped"):
            return Outcome("skipped", f"its teacher {teacher.name} ({teacher.digest[:8]}) {outcome.status}")
    return None


# -- in workers ---------------------------------------------------------------------------------------------------


class _Pipe:
    """A worker's end of its progress: messages at most every 0.1 s, so that a step never waits for the parent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sent = 0.0

    def step(self, step: int, epoch: int) -> None:
        if (now := time.monotonic()) - self._sent >= REPORT_EVERY:
            self._sent = now
            self._connection.send(("step", step, epoch))

    def row(self, row: Mapping[str, float]) -> None:
        self._connection.send(("row", dict(row)))

    def note(self, text: str) -> None:
        self._connection.send(("note", text))


def _die_with_parent(connection: Connection) -> None:
    """Ends this process when its parent is gone, after it has saved its state: nobody would read its result."""

    def watch() -> None:
        with suppress(EOFError, OSError):
            connection.recv()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _work(connection: Connection, parent: Connection, node: Any, settings: Settings) -> None:
    """What a worker does: one training. Runs in a fresh process forked from a warm server."""
    from kdbench.runner import Trainer
    from kdbench.watch import Watch

    with stopping_safely():
        _die_with_parent(parent)
        outcome = Outcome("done")
        try:
            with Watch(node, settings, _Pipe(connection)) as watch:
                watch.finish(Trainer(settings).make(node.recipe, watch, on_wait=watch.on_wait))
        except Stopped:
            outcome = Outcome("stopped", "a signal asked for it; the same command goes on from here")
        except Exception as error:  # noqa: BLE001 (sent to the parent with its traceback)
            outcome = describe_failure(error)
        with suppress(OSError):
            connection.send(("end", outcome))


def _check(connection: Connection, parent: Connection, recipes: Sequence[Recipe], settings: Settings) -> None:
    from kdbench.runner import check_all

    _die_with_parent(parent)
    try:
        connection.send(("checked", *check_all(recipes, settings)))
    except UserError as error:
        connection.send(("checked", list(error.problems), {}))


@dataclass
class _Worker:
    process: Any
    connection: Connection
    parent: Connection
    recipe: Recipe
    outcome: Outcome | None = None


class Pool:
    """Processes for trainings, each fresh, all forked from one server that has the libraries loaded.

    Args:
        settings: Where things are and how they are run; its ``threads`` are what every worker gets.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOAD))
        os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(settings.threads)))

    def _start(self, target: Any, *arguments: Any) -> tuple[Any, Connection, Connection]:
        ours, theirs = self._context.Pipe(duplex=False)
        assert isinstance(ours, Connection)
        held, watched = self._context.Pipe(duplex=False)  # its closing tells the worker that we are gone
        assert isinstance(watched, Connection)
        process = self._context.Process(target=target, args=(theirs, held, *arguments), daemon=False)
        process.start()
        theirs.close()
        held.close()
        return process, ours, watched

    def check(self, recipes: Sequence[Recipe]) -> tuple[list[str], dict[str, str]]:
        """:func:`kdbench.runner.check_all` in a worker, so that this process needs no torch.

        Raises:
            UserError: The worker died.
            Stopped: A signal asked for it.
        """
        process, connection, parent = self._start(_check, recipes, self._settings)
        try:
            while not connection.poll(0.1):
                raise_if_stopped()
            _, problems, unsuitable = connection.recv()
        except EOFError as error:
            process.join()
            raise UserError(f"the process that checks the plan died (exit status {process.exitcode})") from error
        finally:
            parent.close()
            process.join()
        return problems, unsuitable

    def run(self, plan: Plan, screen: Screen, *, workers: int, skip: Mapping[str, str]) -> dict[str, Outcome]:
        """Makes what is missing, up to ``workers`` trainings at a time, each as soon as its teachers are there.

        Args:
            plan: What to make.
            screen: Where progress is shown.
            workers: Trainings at a time.
            skip: Networks not to make, by digest, with the reason.

        Raises:
            Stopped: A signal asked for it; what was being trained can be resumed.
        """
        waiting = {recipe.digest: recipe for recipe in plan.missing}
        outcomes = {digest: Outcome("skipped", reason) for digest, reason in skip.items()}
        running: list[_Worker] = []
        try:
            while waiting or running:
                self._settle(waiting, outcomes, screen)
                for recipe in _ready(waiting, outcomes, plan)[: workers - len(running)]:
                    del waiting[recipe.digest]
                    screen.begin(recipe)
                    process, connection, parent = self._start(_work, plan.nodes[recipe.digest], self._settings)
                    running.append(_Worker(process, connection, parent, recipe))
                running = self._listen(running, outcomes, screen)
                raise_if_stopped()
        except BaseException:
            self._stop(running, screen)
            raise
        return outcomes

    def _settle(self, waiting: dict[str, Recipe], outcomes: dict[str, Outcome], screen: Screen) -> None:
        """Gives up what can no longer be made: in order, so that descendants of descendants are found too."""
        for digest, recipe in list(waiting.items()):
            outcome = outcomes.get(digest) or _blocked(recipe, outcomes)
            if outcome is not None:
                outcomes[digest] = outcome
                del waiting[digest]
                screen.end(recipe, outcome)

    def _listen(self, running: list[_Worker], outcomes: dict[str, Outcome], screen: Screen) -> list[_Worker]:
        """Passes messages on for a moment; returns the workers that go on."""
        if not running:
            return running
        by_source = {worker.connection: worker for worker in running}
        for source in wait(list(by_source), timeout=0.2):
            assert isinstance(source, Connection)
            self._receive(by_source[source], screen)
        left = []
        for worker in running:
            if worker.outcome is None:
                left.append(worker)
                continue
            worker.parent.close()
            worker.process.join()
            outcomes[worker.recipe.digest] = worker.outcome
            screen.end(worker.recipe, worker.outcome)
        return left

    def _receive(self, worker: _Worker, screen: Screen) -> None:
        try:
            kind, *content = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            worker.outcome = Outcome("failed", _death(worker.process.exitcode))
            return
        if kind == "end":
            (worker.outcome,) = content
        else:
            getattr(screen, kind)(worker.recipe, *content)

    def _stop(self, running: list[_Worker], screen: Screen) -> None:
        for worker in running:
            worker.process.terminate()
        deadline = time.monotonic() + GRACE
        for worker in running:
            while worker.outcome is None and time.monotonic() < deadline:
                if worker.connection.poll(0.1):
                    self._receive(worker, screen)
            worker.process.join(max(deadline - time.monotonic(), 0.0))
            if worker.process.is_alive():
                worker.process.kill()
            screen.end(worker.recipe, worker.outcome or Outcome("stopped", "it did not stop in time and was killed"))


def _ready(waiting: Mapping[str, Recipe], outcomes: Mapping[str, Outcome], plan: Plan) -> list[Recipe]:
    def there(recipe: Recipe) -> bool:
        node = plan.nodes[recipe.digest]
        return node.entry is not None or outcomes.get(recipe.digest, Outcome("failed")).status == "done"

    return [recipe for recipe in waiting.values() if all(there(teacher) for teacher in recipe.teachers)]


def _death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        cause = ", perhaps for want of memory" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{cause}; the same command goes on from its last state"
    return f"its process ended with status {exitcode} before it said how"
