"""``sweep.backend=process``: one process per training, forked from a warm server."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from kdbench.backends.messages import GRACE, Messenger
from kdbench.backends.walk import make
from kdbench.core.errors import Stopped, UserError
from kdbench.core.recipe import Recipe
from kdbench.core.signals import raise_if_stopped, stopping_safely
from kdbench.plan import Node
from kdbench.settings import Settings
from kdbench.sweep import STOPPED, TOO_SLOW, Board, Outcome, describe_failure

PRELOAD = (
    "kdbench.core.lean",
    "torch",
    "pytorch_lightning",
    "kdbench.measure",
)  # imported once, by the server that trainings are forked from
REPORT_EVERY = 0.1  # seconds between a worker's messages about its steps


def die_with_parent(connection: Connection) -> None:
    """Ends this process when its parent is gone, after it has saved its state: nobody would read its result."""

    def watch() -> None:
        with suppress(EOFError, OSError):
            connection.recv()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _work(connection: Connection, parent: Connection, node: Node, settings: Settings) -> None:
    """What a worker does: one training. Runs in a fresh process forked from a warm server."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stopping_safely(signal.SIGTERM):
        die_with_parent(parent)
        try:
            outcome = make(node, settings, Messenger(connection.send, REPORT_EVERY))
        except Stopped:
            outcome = STOPPED
        with suppress(OSError):
            connection.send(("end", outcome))


def _check(connection: Connection, parent: Connection, missing: Sequence[Recipe], finals: Sequence[Recipe],
           settings: Settings) -> None:  # fmt: skip
    from kdbench.measure import check_plan

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent)
    try:
        connection.send(("checked", *check_plan(missing, finals, settings)))
    except Exception as error:  # noqa: BLE001 (what cannot be built must not be trained, whatever the reason)
        connection.send(("checked", [describe_failure(error).reason], {}))


@dataclass
class _Worker:
    process: Any
    connection: Connection
    parent: Connection
    recipe: Recipe
    slot: int
    outcome: Outcome | None = None


class Forkserver:
    """Starts fresh processes, all forked from one server that has the libraries loaded."""

    def __init__(self, threads: int) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOAD))
        os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)))

    def start(self, target: Any, *arguments: Any) -> tuple[Any, Connection, Connection]:
        """The process, its messages, and what must be kept open as long as it shall live."""
        ours, theirs = self._context.Pipe(duplex=False)
        assert isinstance(ours, Connection)
        held, watched = self._context.Pipe(duplex=False)  # its closing tells the worker that we are gone
        assert isinstance(watched, Connection)
        process = self._context.Process(target=target, args=(theirs, held, *arguments), daemon=False)
        process.start()
        theirs.close()
        held.close()
        return process, ours, watched


def check_in_process(missing: Sequence[Recipe], finals: Sequence[Recipe],
                     settings: Settings) -> tuple[list[str], dict[str, str]]:  # fmt: skip
    """:func:`kdbench.measure.check_plan` in a worker, so that this process needs no torch.

    Raises:
        UserError: The worker died.
        Stopped: A signal asked for it.
    """
    process, connection, parent = Forkserver(settings.threads).start(_check, missing, finals, settings)
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


class ProcessBackend:
    """One process per training on this machine; no job can hurt another."""

    def __init__(self, settings: Settings) -> None:
        self._folder = TemporaryDirectory(prefix="kdbench-data-")
        self._settings = replace(settings, shared=Path(self._folder.name))
        self._server = Forkserver(settings.threads)
        self._running: list[_Worker] = []

    def start(self, node: Node) -> None:
        """Forks a process for it."""
        taken = {worker.slot for worker in self._running}
        slot = min({*range(len(taken) + 1)} - taken)
        process, connection, parent = self._server.start(_work, node, replace(self._settings, slot=slot))
        self._running.append(_Worker(process, connection, parent, node.recipe, slot))

    def poll(self, board: Board) -> dict[str, Outcome]:
        """Waits up to 0.2 s for messages."""
        by_source = {worker.connection: worker for worker in self._running}
        for source in wait(list(by_source), timeout=0.2):
            assert isinstance(source, Connection)
            self._receive(by_source[source], board)
        ended = {worker.recipe.digest: worker.outcome for worker in self._running if worker.outcome is not None}
        for worker in self._running:
            if worker.outcome is not None:
                worker.parent.close()
                worker.process.join()
        self._running = [worker for worker in self._running if worker.outcome is None]
        return ended

    def _receive(self, worker: _Worker, board: Board) -> None:
        try:
            kind, *content = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            worker.outcome = Outcome("failed", describe_death(worker.process.exitcode))
            return
        if kind == "end":
            (worker.outcome,) = content
        else:
            getattr(board, kind)(worker.recipe, *content)

    def stop(self, board: Board) -> dict[str, Outcome]:
        """Terminates the processes; what does not save its state within a minute is killed."""
        for worker in self._running:
            worker.process.terminate()
        deadline = time.monotonic() + GRACE
        for worker in self._running:
            while worker.outcome is None and time.monotonic() < deadline:
                if worker.connection.poll(0.1):
                    self._receive(worker, board)
            worker.process.join(max(deadline - time.monotonic(), 0.0))
            if worker.process.is_alive():
                worker.process.kill()
        return {worker.recipe.digest: worker.outcome or TOO_SLOW for worker in self._running}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Forgets what processes shared; the walk has ended or stopped every one."""
        self._folder.cleanup()


def open_backend(settings: Settings, options: Mapping[str, Any]) -> ProcessBackend:
    """``sweep.backend=process``; it has no options."""
    return ProcessBackend(settings)


def describe_death(exitcode: int | None) -> str:
    """Why a process ended without a word, in words."""
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        cause = ", perhaps for want of memory" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{cause}; the same command goes on from its last state"
    return f"its process ended with status {exitcode} before it said how"
