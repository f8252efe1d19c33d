"""What backends share whose trainings run out of sight: messages through files, a stop that waits for saved states."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from kdbench.backends.messages import GRACE, Mailbox
from kdbench.plan import Node
from kdbench.settings import Settings
from kdbench.sweep import TOO_SLOW, Board, Outcome

MOMENT = 0.2  # seconds of one look


def _absolute(settings: Settings) -> Settings:
    """The settings with paths that mean the same in another working directory."""
    roots = {name: root and str(Path(root).expanduser().absolute()) for name, root in settings.roots.items()}
    return replace(settings, outputs=settings.outputs.absolute(), run_dir=settings.run_dir.absolute(),
                   data_dir=settings.data_dir.absolute(), roots=roots)  # fmt: skip


class RemoteBackend(ABC):
    """Trainings on machines that share a folder with this one.

    Args:
        settings: Of the command; its ``outputs`` must be a folder that all machines see.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = _absolute(settings)
        self.mailbox = Mailbox(self.settings.run_dir)
        self._running: dict[str, tuple[Node, Any]] = {}

    @abstractmethod
    def submit(self, node: Node) -> Any:
        """Hands a training over; returns what it is known by."""

    @abstractmethod
    def ended(self, handles: Mapping[str, Any]) -> dict[str, Outcome]:
        """Waits :data:`MOMENT`; how trainings ended that have, by digest."""

    @abstractmethod
    def cancel(self, handle: Any) -> None:
        """Takes a training out of the queue, or kills it."""

    def start(self, node: Node) -> None:
        """Submits a training."""
        self._running[node.recipe.digest] = node, self.submit(node)

    def poll(self, board: Board) -> dict[str, Outcome]:
        """Looks for trainings that ended, and reads messages."""
        ended = self.ended({digest: handle for digest, (_, handle) in self._running.items()})
        for node, _ in self._running.values():
            self.mailbox.deliver(node.recipe, board)
        for digest in ended:
            del self._running[digest]
        return ended

    def stop(self, board: Board) -> dict[str, Outcome]:
        """Cancels what has not begun, lets the rest save its state; kills what does not within a minute."""
        self.mailbox.ask_to_stop()
        outcomes: dict[str, Outcome] = {}
        for digest, (_, handle) in list(self._running.items()):
            if not self.mailbox.heard_of(digest):
                self.cancel(handle)
                outcomes[digest] = Outcome("stopped", "it had not begun")
                del self._running[digest]
        deadline = time.monotonic() + GRACE
        while self._running and time.monotonic() < deadline:
            outcomes |= self.poll(board)
        for digest, (_, handle) in self._running.items():
            self.cancel(handle)
            outcomes[digest] = TOO_SLOW
        return outcomes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.mailbox.close()
