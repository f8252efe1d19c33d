"""The other processes of a training on several devices: started from inside the one that trains, ended with it.

Not by Lightning, which would replay the command line, and in a sweep the whole sweep.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

from kdbench.core.errors import Stopped, TrainingError, UserError
from kdbench.core.signals import raise_if_stopped, stopping_safely

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
PRELOAD = ("torch", "pytorch_lightning", "kdbench.runner")
GRACE = 5.0  # seconds for a rank to say why it failed, and to end
FOREVER = timedelta(days=7)  # ranks wait while rank 0 measures; a rank that dies is noticed by its connection


@dataclass
class _Rank:
    number: int
    process: Any
    connection: Connection
    alive: Connection  # open as long as we are: the rank ends itself when it closes

    def failure(self, seconds: float) -> str | None:
        """Why it failed, in one line, if it says so or dies within ``seconds``."""
        with suppress(EOFError, OSError):
            if not self.connection.poll(seconds):
                return None
            said = self.connection.recv()
            return said or self.failure(0.0)  # what it said first may be that it was ready
        self.process.join(GRACE)
        code = self.process.exitcode
        if not code:
            return None
        died = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return f"its process {died}; the same command goes on from its last state"


def _follow(connection: Connection, alive: Connection, number: int, ranks: int, port: int, device: str,
            prepare: Callable[..., Callable[[], object]], arguments: Sequence[Any]) -> None:  # fmt: skip
    """What another rank does: the same as rank 0, in step with it, until both are done."""
    _end_with(alive)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; rank 0 passes it on
    with stopping_safely(signal.SIGTERM):
        try:
            train = prepare(number, *arguments)
            connection.send("")
            store = TCPStore("127.0.0.1", port, ranks, is_master=False)
            dist.init_process_group(BACKENDS[device], store=store, rank=number, world_size=ranks, timeout=FOREVER)
            train()
            dist.destroy_process_group()
        except Stopped:
            pass
        except Exception as error:  # noqa: BLE001 (sent to rank 0, which tells the user)
            line = error.problems[0] if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            connection.send(line.strip().splitlines()[0])
            os._exit(1)  # at once: what ends a process in good order may wait for the other ranks


def _end_with(alive: Connection) -> None:
    def watch() -> None:
        with suppress(EOFError, OSError):
            alive.recv()
        os._exit(1)  # not by a signal, which is not heard while a rank waits for another

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def ranks_running(
    ranks: int, device: str, prepare: Callable[..., Callable[[], object]], *arguments: Any
) -> Iterator[None]:
    """Within it this process is rank 0 of a process group, and the other ranks do what ``prepare`` says.

    They are forked from the warm server that a sweep's trainings come from.

    Args:
        ranks: How many, with this one; 1 starts none.
        device: ``cpu`` or ``cuda``.
        prepare: Called in each other process with its rank and ``arguments``; gives what is to be run in step with the
            body of the ``with`` statement, once all ranks have come so far.
        arguments: What it needs.

    Raises:
        TrainingError: Another rank failed; all have ended.
    """
    if ranks == 1:
        yield
        return
    store = TCPStore("127.0.0.1", 0, ranks, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    others: list[_Rank] = []
    try:
        for number in range(1, ranks):
            others.append(_start(context, number, ranks, store.port, device, prepare, arguments))
        for other in others:
            _wait_until_ready(other)
        dist.init_process_group(BACKENDS[device], store=store, rank=0, world_size=ranks, timeout=FOREVER)
        yield
        for other in others:
            other.process.join(GRACE)
    except (UserError, Stopped):
        raise
    except Exception as error:
        _raise_for(others, error)
        raise
    finally:
        _end(others)


def _start(context: Any, number: int, *arguments: Any) -> _Rank:
    ours, theirs = context.Pipe(duplex=False)
    held, alive = context.Pipe(duplex=False)
    process = context.Process(target=_follow, args=(theirs, held, number, *arguments))
    process.start()
    theirs.close()
    held.close()
    return _Rank(number, process, ours, alive)


def _wait_until_ready(other: _Rank) -> None:
    while not other.connection.poll(0.2):
        raise_if_stopped()
    with suppress(EOFError, OSError):
        if not (said := other.connection.recv()):
            return
        raise TrainingError(f"rank {other.number}: {said}")
    raise EOFError


def _raise_for(others: Sequence[_Rank], error: Exception) -> None:
    """Names the rank that failed first, if one did: that this one lost its connection is only the consequence."""
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline and isinstance(error, RuntimeError | EOFError):
        for other in others:
            if reason := other.failure(0.1):
                raise TrainingError(f"rank {other.number}: {reason}") from error


def _end(others: Sequence[_Rank]) -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
    for other in others:
        other.alive.close()
    for other in others:
        other.process.join(GRACE)
        if other.process.is_alive():
            other.process.kill()
            other.process.join()
        other.connection.close()
