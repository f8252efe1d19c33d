"""Stopping on a signal at a safe point: the handler notes it, the training loop saves its state and stops."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from kdbench.core.errors import Stopped

STOPPING = (signal.SIGINT, signal.SIGTERM)
_requested: list[int] = []  # process-wide by nature, as signals are


def stop_requested() -> bool:
    """Whether a signal has asked this process to stop."""
    return bool(_requested)


def raise_if_stopped() -> None:
    """Ends the run if a signal asked for it.

    Raises:
        Stopped: It did.
    """
    if _requested:
        raise Stopped(_requested[0])


def _note(signum: int, _frame: FrameType | None) -> None:
    if _requested:  # asked twice: at once, whatever is lost since the last checkpoint
        os._exit(128 + signum)
    _requested.append(signum)


@contextmanager
def stopping_safely() -> Iterator[None]:
    """Within it, SIGINT and SIGTERM ask for a stop at the next safe point; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _requested.clear()
    before = {signum: signal.signal(signum, _note) for signum in STOPPING}
    try:
        yield
    finally:
        _requested.clear()
        for signum, handler in before.items():
            signal.signal(signum, handler)
