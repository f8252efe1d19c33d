"""What a person sees while networks train: bars with the time left in a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from kdbench.report.console import print_line, time_text

_REDRAW_SECONDS = 0.1
_LINE_SECONDS = 10.0
_WIDE = 80  # characters from which the metrics have room beside the bar


@dataclass
class _Training:
    label: str
    total_epochs: int
    total_steps: int
    began: float
    line_due: float
    first: tuple[float, int] | None = None  # when the first step was reported, and which; not 1 after a resume
    step: int = 0
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        return min(self.step / self.total_steps, 1.0) if self.total_steps else 0.0

    def text(self, now: float, *, short: bool = False) -> str:
        """Where it stands, e.g. ``epoch 12/30  loss 0.1234  val 95.10 %  1m05s left``."""
        parts = [f"{'' if short else 'epoch '}{self.epoch}/{self.total_epochs}"]
        if not short and "train/loss" in self.metrics:
            parts.append(f"loss {self.metrics['train/loss']:.4f}")
        if not short and "val/acc" in self.metrics:
            parts.append(f"val {self.metrics['val/acc']:.2f} %")
        since, first_step = self.first or (now, self.step)
        return "  ".join(parts) + _left_text(now - since, self.step - first_step, self.total_steps - self.step)


def _left_text(elapsed: float, done: float, left: float) -> str:
    return f"  {time_text(elapsed / done * left)} left" if done > 0 else ""


class _View(Protocol):
    def start(self, task_id: str, training: _Training) -> None: ...

    def draw(self, running: Mapping[str, _Training], now: float, overall: tuple[float, str]) -> None: ...

    def finish(self, task_id: str, line: str, status: str) -> None: ...

    def close(self) -> None: ...


class Display:
    """Progress of one or many trainings; use it as a context manager.

    Cheap enough to call at every step; draws from the caller's thread only; survives a reader who goes away.

    Args:
        console: Where to draw; bars if it is a terminal, lines if not.
        total: Trainings in all; with more than one, an overall bar and counted lines.
        clock: Seconds, monotonic; another one in tests.
    """

    def __init__(self, console: Console, *, total: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began, self._drawn = clock, clock(), float("-inf")
        self._total, self._finished, self._trained = total, 0, 0
        self._running: dict[str, _Training] = {}
        self._view: _View = _Bars(console, total) if console.is_terminal else _Lines(console)

    def start(self, task_id: str, label: str, total_epochs: int, total_steps: int) -> None:
        """A training begins, or goes on after a break.

        Args:
            task_id: Any text that is its own.
            label: What to call it, e.g. ``student plain2``.
            total_epochs: Epochs of the whole training.
            total_steps: Optimiser steps of the whole training.
        """
        now = self._clock()
        self._running[task_id] = _Training(label, total_epochs, total_steps, now, now + _LINE_SECONDS)
        self._view.start(task_id, self._running[task_id])

    def update(self, task_id: str, step: int, epoch: int, metrics: Mapping[str, float] | None = None) -> None:
        """Where a training stands; drawn ten times a second at most.

        Args:
            task_id: As given to :meth:`start`; others are ignored, for a late message may follow the end.
            step: Optimiser steps done.
            epoch: Epochs done.
            metrics: The newest values, e.g. ``train/loss``; earlier ones stay.
        """
        if (training := self._running.get(task_id)) is None:
            return
        now = self._clock()
        training.first = training.first or (now, step)
        training.step, training.epoch = step, epoch
        training.metrics.update(metrics or {})
        if now - self._drawn >= _REDRAW_SECONDS:
            self._draw(now)

    def finish(self, task_id: str, status: str, text: str = "") -> None:
        """A training ended, or was not needed.

        Args:
            task_id: As given to :meth:`start`; one that never started is only reported.
            status: ``done``, ``in store``, ``failed``, ...
            text: What to say beside it: the result, or the reason.
        """
        now = self._clock()
        training = self._running.pop(task_id, None)
        self._finished += 1
        self._trained += training is not None
        count = f"[{self._finished}/{self._total}] " if self._total > 1 else ""
        took = f"in {time_text(now - training.began)}" if training else ""
        words = [f"{count}{status}", training.label if training else "", text, took]
        self._view.finish(task_id, "  ".join(filter(None, words)), status)
        self._draw(now)

    def _draw(self, now: float) -> None:
        self._drawn = now
        partly = sum(training.fraction for training in self._running.values())
        done = self._finished + partly
        # what lay in the store took no time and says nothing about the rest
        left = _left_text(now - self._began, self._trained + partly, self._total - done)
        self._view.draw(self._running, now, (done, f"{self._finished}/{self._total}{left}"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._view.close()


class _Lines:
    """A line at the start, every ten seconds, and at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def start(self, task_id: str, training: _Training) -> None:
        print_line(
            self._console, f"start  {training.label}  {training.total_epochs} epoch{'s' * (training.total_epochs != 1)}"
        )

    def draw(self, running: Mapping[str, _Training], now: float, overall: tuple[float, str]) -> None:
        for training in running.values():
            if now >= training.line_due:
                training.line_due = now + _LINE_SECONDS
                print_line(self._console, f"       {training.label}  {training.text(now)}")

    def finish(self, task_id: str, line: str, status: str) -> None:
        print_line(self._console, line)

    def close(self) -> None:
        """Leaves nothing behind."""


class _Bars:
    """One bar per running training, and one over all of them."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn(
                "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
            ),
            BarColumn(bar_width=24 if console.width >= _WIDE else 6),
            TextColumn("{task.fields[text]}", markup=False, table_column=Column(no_wrap=True)),
            console=console,
            auto_refresh=False,  # no thread: it could not be kept from raising when the reader goes away
            expand=True,
            transient=True,
        )
        self._ids: dict[str, TaskID] = {}
        self._overall = self._progress.add_task("all", total=total, text=f"0/{total}") if total > 1 else None
        self._progress.start()

    def start(self, task_id: str, training: _Training) -> None:
        self._ids[task_id] = self._progress.add_task(training.label, total=training.total_steps or None, text="")
        self._progress.refresh()

    def draw(self, running: Mapping[str, _Training], now: float, overall: tuple[float, str]) -> None:
        short = self._console.width < _WIDE
        for task_id, training in running.items():
            text = training.text(now, short=short)
            self._progress.update(self._ids[task_id], completed=training.step, text=text)
        if self._overall is not None:
            self._progress.update(self._overall, completed=overall[0], text=overall[1])
        self._progress.refresh()

    def finish(self, task_id: str, line: str, status: str) -> None:
        if (task := self._ids.pop(task_id, None)) is not None:
            self._progress.remove_task(task)
        print_line(self._console, line, status)

    def close(self) -> None:
        self._progress.stop()
