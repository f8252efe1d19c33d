"""What loggers are told about a training, and how they say once what went wrong."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_log = logging.getLogger("kdbench.loggers")
warned: set[str] = set()  # the only state here: one warning per topic and process


@dataclass(frozen=True)
class RunInfo:
    """What a sink is told about one training.

    Attributes:
        project: The study's name, or ``kdbench``.
        group: The sweep's name.
        role: ``teacher``, ``assistant`` or ``student``.
        name: Readable, e.g. ``plain6 -> plain4 -> plain2, seed 1``.
        config: The resolved recipe and its digest, plain values.
        folder: The run's folder; sinks write below it and nowhere else.
        from_store: Whether a stored history is replayed instead of a training watched.
    """

    project: str
    group: str
    role: str
    name: str
    config: Mapping[str, Any]
    folder: Path
    from_store: bool = False

    @property
    def logged_config(self) -> dict[str, Any]:
        """The config as sinks show it: with ``from_store``, so that a replay is never taken for a training."""
        return {**self.config, "from_store": self.from_store}


@dataclass(frozen=True)
class Stored:
    """A network of the store.

    Attributes:
        name: Of the network.
        digest: Of its recipe.
        folder: Of its files.
    """

    name: str
    digest: str
    folder: Path


def warn_once(topic: str, message: str) -> None:
    """Warns, unless this process has warned of the topic before."""
    if topic not in warned:
        warned.add(topic)
        _log.warning(message)


def one_line(error: Exception) -> str:
    """Its class and the first line of its words."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
