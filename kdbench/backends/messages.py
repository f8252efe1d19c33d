"""What a training tells the command that waits for it: through a pipe, or through files that both can see."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdbench.core.recipe import Recipe
from kdbench.watch import Screen

FILE_EVERY = 1.0  # seconds between two lines about steps: a network folder is no pipe
GRACE = 60.0  # seconds for a stopped training to save its state
_STOP = "stop"


class Messenger:
    """A worker's screen: sends on what it is told; steps now and then only, so that none waits for a reader.

    Args:
        send: Called with the name of a method of :class:`kdbench.watch.Screen` and its arguments.
        every: Seconds between two messages about steps.
    """

    def __init__(self, send: Callable[[list[Any]], None], every: float) -> None:
        self._send, self._every = send, every
        self._sent = 0.0

    def step(self, recipe: Recipe, step: int, epoch: int) -> None:
        """Passed on if the last one is long enough ago."""
        if (now := time.monotonic()) - self._sent >= self._every:
            self._sent = now
            self._send(["step", step, epoch])

    def row(self, recipe: Recipe, row: Mapping[str, float]) -> None:
        """Passed on."""
        self._send(["row", dict(row)])

    def note(self, recipe: Recipe, text: str) -> None:
        """Passed on."""
        self._send(["note", text])


def file_messenger(folder: Path, digest: str) -> Messenger:
    """A messenger into the training's file in a :class:`Mailbox`; a line that cannot be written is lost, no more."""

    def send(message: list[Any]) -> None:
        with suppress(OSError), (folder / digest).open("a") as file:
            file.write(json.dumps(message) + "\n")

    return Messenger(send, FILE_EVERY)


def asked_to_stop(folder: Path) -> bool:
    """Whether the command behind a :class:`Mailbox` wants its trainings to stop."""
    return (folder / _STOP).exists()


def stop_when_asked(folder: Path) -> None:
    """Sends this process SIGTERM once the command behind a :class:`Mailbox` wants its trainings to stop."""

    def watch() -> None:
        while not asked_to_stop(folder):
            time.sleep(FILE_EVERY)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


class Mailbox:
    """A folder that trainings write to and that tells them to stop; below the run's folder, as seen by all machines.

    Args:
        run_dir: The command's own folder.
    """

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="messages-", dir=run_dir)).absolute()
        self._read: dict[str, int] = {}

    def heard_of(self, digest: str) -> bool:
        """Whether a training has said anything yet."""
        return (self.folder / digest).exists()

    def deliver(self, recipe: Recipe, screen: Screen) -> None:
        """Shows what a training has written since it was last asked."""
        with suppress(FileNotFoundError), (self.folder / recipe.digest).open() as file:
            file.seek(self._read.get(recipe.digest, 0))
            while (line := file.readline()).endswith("\n"):  # the last one may still be in the writing
                self._read[recipe.digest] = file.tell()
                kind, *content = json.loads(line)
                getattr(screen, kind)(recipe, *content)

    def ask_to_stop(self) -> None:
        """Every training saves its state and ends."""
        (self.folder / _STOP).touch()

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
