"""Stopping on a signal at a safe point: the handler notes it, the training loop saves its state and stops."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from kdbench.core.errors import Stopped

STOPPING = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 2.0  # seconds in which another signal says nothing new: a terminal signals workers, their parent does too
_requested: list[int] = []  # process-wide by nature, as signals are
_asked_at: list[float] = []


def stop_signal() -> int:
    """The signal that has asked this process to stop, 0 if none has."""
    return _requested[0] if _requested else 0


def raise_if_stopped() -> None:
    """Ends the run if a signal asked for it.

    Raises:
        Stopped: It did.
    """
    if _requested:
        raise Stopped(_requested[0])


def _note(signum: int, _frame: FrameType | None) -> None:
    if not _requested:
        _requested.append(signum)
        _asked_at.append(time.monotonic())
    elif time.monotonic() - _asked_at[0] > PATIENCE:
        os._exit(128 + signum)  # asked again: at once, whatever is lost since the last checkpoint


@contextmanager
def stopping_safely(*signals: signal.Signals) -> Iterator[None]:
    """Within it, SIGINT and SIGTERM ask for a stop at the next safe point.

    One more after two seconds ends the process at once.

    Args:
        signals: Others to listen to instead. Workers leave SIGINT to their parent: a terminal sends Ctrl-C to both.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _requested.clear()
    _asked_at.clear()
    before = {signum: signal.signal(signum, _note) for signum in signals or STOPPING}
    try:
        yield
    finally:
        _requested.clear()
        _asked_at.clear()
        for signum, handler in before.items():
            signal.signal(signum, handler)
