"""Evaluations of stored networks in processes of this machine, whatever backend trained them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait

from kdbench.backends.process import Forkserver, describe_death, die_with_parent
from kdbench.core.recipe import Recipe
from kdbench.core.signals import raise_if_stopped
from kdbench.settings import Settings
from kdbench.sweep import Outcome


def _measure(connection: Connection, parent: Connection, recipes: Sequence[Recipe], settings: Settings) -> None:
    """What a worker does; a signal ends it at once, since every result is kept as soon as it is there."""
    from kdbench.measure import measure_here

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent)
    connection.send(("end", measure_here(recipes, settings, lambda text: connection.send(("say", text)))))


def measure_in_processes(
    recipes: Sequence[Recipe], settings: Settings, say: Callable[[str], None]
) -> dict[str, Outcome]:
    """:func:`kdbench.measure.measure_here` in ``settings.workers`` processes, each with a share of the networks.

    Raises:
        Stopped: A signal asked for it; what was measured is kept.
    """
    server, failures = Forkserver(settings.threads), {}
    shares = [recipes[slot :: settings.workers] for slot in range(min(settings.workers, len(recipes)))]
    started = [server.start(_measure, share, replace(settings, slot=slot)) for slot, share in enumerate(shares)]
    processes = {connection: process for process, connection, _ in started}
    try:
        while processes:
            raise_if_stopped()
            for source in wait(list(processes), timeout=0.2):
                assert isinstance(source, Connection)
                try:
                    kind, content = source.recv()
                except (EOFError, OSError):
                    process = processes.pop(source)
                    process.join()
                    failures[f"eval-process-{process.pid}"] = Outcome("failed", describe_death(process.exitcode))
                    continue
                if kind == "say":
                    say(content)
                else:
                    failures |= content
                    del processes[source]
    finally:
        for process, _, parent in started:
            parent.close()  # ends what still runs
            process.join()
    return failures
