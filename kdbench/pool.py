"""The executor for sweeps: one process per training, forked from a warm server, so that no job can hurt another."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from kdbench.core.errors import Stopped, UserError
from kdbench.core.recipe import Recipe
from kdbench.core.signals import raise_if_stopped, stopping_safely
from kdbench.plan import Node, Plan
from kdbench.settings import Settings
from kdbench.sweep import STOPPED, Board, Outcome, blocked, describe_failure
from kdbench.watch import Watch

BACKENDS = ("process",)
PRELOAD = (
    "kdbench.core.lean",
    "torch",
    "pytorch_lightning",
    "kdbench.measure",
)  # imported once, by the server that trainings are forked from
GRACE = 60.0  # seconds for a stopped training to save its state
REPORT_EVERY = 0.1  # seconds between a worker's messages about its steps


class _Pipe:
    """A worker's end of its progress: messages at most every 0.1 s, so that a step never waits for the parent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sent = 0.0

    def step(self, recipe: Recipe, step: int, epoch: int) -> None:
        if (now := time.monotonic()) - self._sent >= REPORT_EVERY:
            self._sent = now
            self._connection.send(("step", step, epoch))

    def row(self, recipe: Recipe, row: Mapping[str, float]) -> None:
        self._connection.send(("row", dict(row)))

    def note(self, recipe: Recipe, text: str) -> None:
        self._connection.send(("note", text))


def _die_with_parent(connection: Connection) -> None:
    """Ends this process when its parent is gone, after it has saved its state: nobody would read its result."""

    def watch() -> None:
        with suppress(EOFError, OSError):
            connection.recv()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _work(connection: Connection, parent: Connection, node: Node, settings: Settings) -> None:
    """What a worker does: one training. Runs in a fresh process forked from a warm server."""
    from kdbench.runner import Trainer

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stopping_safely(signal.SIGTERM):
        _die_with_parent(parent)
        outcome = Outcome("done")
        try:
            with Watch(node, settings, _Pipe(connection)) as watch:
                watch.finish(Trainer(settings).make(node.recipe, watch, on_wait=watch.on_wait))
        except Stopped:
            outcome = STOPPED
        except Exception as error:  # noqa: BLE001 (sent to the parent with its traceback)
            outcome = describe_failure(error)
        with suppress(OSError):
            connection.send(("end", outcome))


def _check(connection: Connection, parent: Connection, missing: Sequence[Recipe], finals: Sequence[Recipe],
           settings: Settings) -> None:  # fmt: skip
    from kdbench.measure import check_plan

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent(parent)
    try:
        connection.send(("checked", *check_plan(missing, finals, settings)))
    except Exception as error:  # noqa: BLE001 (what cannot be built must not be trained, whatever the reason)
        connection.send(("checked", [describe_failure(error).reason], {}))


def _measure(connection: Connection, parent: Connection, recipes: Sequence[Recipe], settings: Settings) -> None:
    """What a worker does that measures: a signal ends it at once, since every result is kept when it is there."""
    from kdbench.measure import measure_here

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent(parent)
    connection.send(("end", measure_here(recipes, settings, lambda text: connection.send(("say", text)))))


@dataclass
class _Worker:
    process: Any
    connection: Connection
    parent: Connection
    recipe: Recipe
    slot: int
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

    def check(self, missing: Sequence[Recipe], finals: Sequence[Recipe]) -> tuple[list[str], dict[str, str]]:
        """:func:`kdbench.measure.check_plan` in a worker, so that this process needs no torch.

        Raises:
            UserError: The worker died.
            Stopped: A signal asked for it.
        """
        process, connection, parent = self._start(_check, missing, finals, self._settings)
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

    def run(self, plan: Plan, board: Board, *, workers: int, skip: Mapping[str, str]) -> dict[str, Outcome]:
        """Makes what is missing, up to ``workers`` trainings at a time, each as soon as its teachers are there.

        Args:
            plan: What to make.
            board: Where progress is shown.
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
                self._settle(waiting, outcomes, board)
                for recipe in _ready(waiting, outcomes, plan)[: workers - len(running)]:
                    del waiting[recipe.digest]
                    board.begin(recipe)
                    slot = min(set(range(workers)) - {worker.slot for worker in running})
                    settings = replace(self._settings, slot=slot)
                    process, connection, parent = self._start(_work, plan.nodes[recipe.digest], settings)
                    running.append(_Worker(process, connection, parent, recipe, slot))
                running = self._listen(running, outcomes, board)
                raise_if_stopped()
        except BaseException:
            self._stop(running, board)
            raise
        return outcomes

    def measure(self, recipes: Sequence[Recipe], say: Callable[[str], None], *, workers: int) -> dict[str, Outcome]:
        """:func:`kdbench.measure.measure_here` in workers, each with a share of the networks.

        Raises:
            Stopped: A signal asked for it; what was measured is kept.
        """
        shares = [recipes[slot::workers] for slot in range(min(workers, len(recipes)))]
        started = [
            self._start(_measure, share, replace(self._settings, slot=slot)) for slot, share in enumerate(shares)
        ]
        processes = {connection: process for process, connection, _ in started}
        failures: dict[str, Outcome] = {}
        try:
            while processes:
                raise_if_stopped()
                for source in wait(list(processes), timeout=0.2):
                    assert isinstance(source, Connection)
                    try:
                        kind, content = source.recv()
                    except (EOFError, OSError):
                        (process := processes.pop(source)).join()
                        failures[f"eval-worker-{process.pid}"] = Outcome("failed", _death(process.exitcode))
                        continue
                    if kind == "say":
                        say(content)
                    else:
                        failures |= content
                        processes.pop(source)
        finally:
            for process, _, parent in started:
                parent.close()  # ends what still runs
                process.join()
        return failures

    def _settle(self, waiting: dict[str, Recipe], outcomes: dict[str, Outcome], board: Board) -> None:
        """Gives up what can no longer be made: in order, so that descendants of descendants are found too."""
        for digest, recipe in list(waiting.items()):
            outcome = outcomes.get(digest) or blocked(recipe, outcomes)
            if outcome is not None:
                outcomes[digest] = outcome
                del waiting[digest]
                board.end(recipe, outcome)

    def _listen(self, running: list[_Worker], outcomes: dict[str, Outcome], board: Board) -> list[_Worker]:
        """Passes messages on for a moment; returns the workers that go on."""
        if not running:
            return running
        by_source = {worker.connection: worker for worker in running}
        for source in wait(list(by_source), timeout=0.2):
            assert isinstance(source, Connection)
            self._receive(by_source[source], board)
        left = []
        for worker in running:
            if worker.outcome is None:
                left.append(worker)
                continue
            worker.parent.close()
            worker.process.join()
            outcomes[worker.recipe.digest] = worker.outcome
            board.end(worker.recipe, worker.outcome)
        return left

    def _receive(self, worker: _Worker, board: Board) -> None:
        try:
            kind, *content = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            worker.outcome = Outcome("failed", _death(worker.process.exitcode))
            return
        if kind == "end":
            (worker.outcome,) = content
        else:
            getattr(board, kind)(worker.recipe, *content)

    def _stop(self, running: list[_Worker], board: Board) -> None:
        for worker in running:
            worker.process.terminate()
        deadline = time.monotonic() + GRACE
        for worker in running:
            while worker.outcome is None and time.monotonic() < deadline:
                if worker.connection.poll(0.1):
                    self._receive(worker, board)
            worker.process.join(max(deadline - time.monotonic(), 0.0))
            if worker.process.is_alive():
                worker.process.kill()
            board.end(worker.recipe, worker.outcome or Outcome("stopped", "it did not stop in time and was killed"))


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
