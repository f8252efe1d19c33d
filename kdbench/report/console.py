"""The plan before a run and the table after it: columns in a terminal, aligned plain lines anywhere else."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Literal, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

State = Literal["train", "resume", "in store", "use as is"]
Status = Literal["done", "in store", "failed", "skipped", "stopped"]

_STYLES = {"train": "cyan", "resume": "yellow", "failed": "red", "skipped": "yellow", "stopped": "yellow"}
_PLAN_WORDS = {"train": "to train", "resume": "to resume", "in store": "in the store", "use as is": "used as is"}
_GAP = 2  # blanks between two columns


@dataclass(frozen=True)
class PlanRow:
    """One network of a plan.

    Attributes:
        state: What would be done for it.
        role: ``teacher``, ``assistant`` or ``student``.
        chain: The path that makes it, e.g. ``plain6 -> plain4 -> plain2``.
        method: The method's name; ``None`` for the task loss alone.
        epochs: Epochs of the training proper; 0 for a network that is used as it is.
        seed: Its seed.
        id: Its digest, of which eight digits are shown.
        before: Epochs of the phases before the training proper.
        overrides: What else tells its jobs from the others.
    """

    state: State
    role: str
    chain: str
    method: str | None
    epochs: int
    seed: int
    id: str
    before: tuple[int, ...] = ()
    overrides: str = ""


@dataclass(frozen=True)
class ResultRow:
    """One network of the final table; ``None`` is a number that nobody measured.

    Attributes:
        role: ``teacher``, ``assistant`` or ``student``.
        network: Its name, or its chain where the name alone would be ambiguous.
        id: Its digest, of which eight digits are shown.
        method: The method's name; ``None`` for the task loss alone. Shown where rows differ in it.
        overrides: What else tells its job from the others of a sweep.
        parameters: Number of trainable and frozen parameters.
        macs: Multiply-accumulates of one sample's forward pass.
        epochs: Epochs trained.
        val_acc: Top-1 accuracy on the validation split, in percent.
        test_acc: The same on the test set.
        scratch_acc: Test accuracy of the same network trained without a teacher.
        agreement: Test samples on which it and its teacher predict the same class, in percent.
        teacher_queries: Samples that its teachers were asked about.
        queried_images: Different images among them.
        seconds: Wall time of its training.
        seed: Shown where any row has one.
        marks: What a reader must know beside the numbers, e.g. ``selected on test``.
        evals: The number of each evaluation that tables show, by its heading.
        status: How it ended.
        reason: Why, where it did not end well; one line.
    """

    role: str
    network: str
    id: str
    method: str | None = field(default=None, kw_only=True)
    overrides: str = field(default="", kw_only=True)
    parameters: int | None = None
    macs: float | None = None
    epochs: int | None = None
    val_acc: float | None = None
    test_acc: float | None = None
    scratch_acc: float | None = None
    agreement: float | None = None
    teacher_queries: int | None = None
    queried_images: int | None = None
    seconds: float | None = None
    seed: int | None = None
    marks: tuple[str, ...] = ()
    evals: Mapping[str, float | None] = field(default_factory=dict)
    status: Status = "done"
    reason: str = ""


class Column(NamedTuple):
    """One column, filled in.

    Attributes:
        heading: Its heading.
        cells: One text per row.
        keep: A narrow terminal shows the columns of the smallest first; those of 0 always.
        align: Numbers to the right.
    """

    heading: str
    cells: list[str]
    keep: int = 0
    align: Literal["left", "right"] = "left"

    @property
    def width(self) -> int:
        """Characters that the widest cell needs."""
        return max(map(len, [self.heading, *self.cells]))

    def padded(self) -> list[str]:
        """The heading and every cell, filled with blanks to the column's width."""
        pad, width = (str.rjust if self.align == "right" else str.ljust), self.width
        return [pad(text, width) for text in [self.heading, *self.cells]]


def count_text(value: float | None) -> str:
    """A count with three digits: ``942``, ``1.66M``; ``-`` where unknown."""
    if value is None:
        return "-"
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:
            scaled = value / factor
            return f"{scaled:.{0 if scaled >= 99.95 else 1 if scaled >= 9.995 else 2}f}{unit}"
    return f"{value:.0f}"


def percent_text(value: float | None) -> str:
    """A percentage with two decimals and no sign: ``93.10``; ``-`` where unknown."""
    return "-" if value is None else f"{value:.2f}"


def number_text(heading: str, value: float | None) -> str:
    """The number of an evaluation: accuracies in percent, counts in short, anything else with four decimals."""
    if heading.endswith("acc"):
        return percent_text(value)
    return count_text(value) if value is None or isinstance(value, int) else f"{value:.4f}"


def _queries_text(row: ResultRow) -> str:
    """Different images and all queries, ``2.00k/30.0k``."""
    images = "" if row.queried_images is None else f"{count_text(row.queried_images)}/"
    return images + count_text(row.teacher_queries)


def time_text(seconds: float | None) -> str:
    """A duration in its two largest units: ``4.2s``, ``1m05s``, ``2h03m``, ``1d04h``."""
    if seconds is None:
        return "-"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02}h" if days else f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The reader went away (``| head``): say nothing more, but finish the work."""
        self.quiet = True
        # whatever else is written there would fail when the interpreter flushes it at exit
        with suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self.file.fileno())


def make_console(file: IO[str] | None = None, *, force_terminal: bool | None = None) -> Console:
    """A console that is a terminal only where colours and redrawn lines are welcome.

    Without one, with ``NO_COLOR`` or ``CI`` set, or on a dumb terminal, everything is plain lines.

    Args:
        file: Where to write; standard output by default.
        force_terminal: Overrides what is found out about ``file``.
    """
    console = _Console(file=file, force_terminal=force_terminal, highlight=False)
    wanted = not (console.no_color or console.is_dumb_terminal or os.environ.get("CI"))
    return console if wanted else _Console(file=file, force_terminal=False, highlight=False)


def print_plan(rows: Sequence[PlanRow], console: Console) -> None:
    """One line per network, and what they come to."""
    said = [row.overrides or "-" for row in rows]
    overrides = [Column("overrides", said, keep=1)] if any(row.overrides for row in rows) else []
    print_columns(
        [
            Column("state", [row.state for row in rows]),
            Column("role", [row.role for row in rows], keep=3),
            Column("network", [row.chain for row in rows]),
            Column("method", [row.method or "-" for row in rows], keep=4),
            *overrides,
            Column(
                "epochs", ["+".join(map(str, (*row.before, row.epochs or "-"))) for row in rows], keep=2, align="right"
            ),
            Column("seed", [str(row.seed) for row in rows], keep=1, align="right"),
            Column("id", [row.id[:8] for row in rows], keep=1),
        ],
        console,
    )
    counts = Counter(row.state for row in rows)
    parts = [f"{counts[state]} {word}" for state, word in _PLAN_WORDS.items() if counts[state]]
    print_line(console, f"{len(rows)} network{'s' * (len(rows) != 1)}: {', '.join(parts) or 'nothing to do'}")


@dataclass(frozen=True)
class ResultTable:
    """The table at the end of a run."""

    rows: Sequence[ResultRow]

    def columns(self) -> list[Column]:
        """Every column that has something to say, best known first."""
        rows = self.rows

        def numbers(heading: str, keep: int, text: Callable[[ResultRow], str]) -> Column:
            return Column(heading, [text(row) for row in rows], keep, "right")

        notes = self._notes()
        headings = dict.fromkeys(heading for row in rows for heading in row.evals)
        columns = [
            Column("role", [row.role for row in rows], keep=4),
            Column("network", [" ".join([row.network, *(notes[mark] for mark in row.marks)]) for row in rows]),
            Column("method", [row.method or "-" for row in rows], keep=1),
            Column("overrides", [row.overrides or "-" for row in rows], keep=1),
            numbers("seed", 2, lambda row: "-" if row.seed is None else str(row.seed)),
            numbers("params", 5, lambda row: count_text(row.parameters)),
            numbers("MACs", 8, lambda row: count_text(row.macs)),
            numbers("epochs", 6, lambda row: "-" if row.epochs is None else str(row.epochs)),
            numbers("val %", 3, lambda row: percent_text(row.val_acc)),
            numbers("test %", 0, lambda row: percent_text(row.test_acc)),
            numbers("alone %", 6, lambda row: percent_text(row.scratch_acc)),
            numbers("agree %", 7, lambda row: percent_text(row.agreement)),
            *(
                numbers(heading, 1, lambda row, heading=heading: number_text(heading, row.evals.get(heading)))
                for heading in headings
            ),
            numbers("queries", 9, _queries_text),
            numbers("time", 7, lambda row: time_text(row.seconds)),
            Column("id", [row.id[:8] for row in rows], keep=1),
            Column("status", [row.status for row in rows], keep=1),
        ]
        unsaid = {
            "method": len({row.method for row in rows} - {None}) < 2,
            "overrides": not any(row.overrides for row in rows),
            "seed": all(row.seed is None for row in rows),
            "status": all(row.status == "done" for row in rows),
        }
        return [column for column in columns if not unsaid.get(column.heading)]

    def print(self, console: Console) -> None:
        """The table, what its marks mean, and each network that has no result, with the reason."""
        print_columns(self.columns(), console)
        for mark, sign in self._notes().items():
            print_line(console, f"{sign} {mark}")
        for row in self.rows:
            if row.status in ("failed", "skipped", "stopped"):
                seed = "" if row.seed is None else f", seed {row.seed}"
                reason = f": {row.reason}" if row.reason else ""
                print_line(console, f"{row.status}: {row.role} {row.network}{seed} ({row.id[:8]}){reason}", row.status)

    def _notes(self) -> dict[str, str]:
        """A footnote sign for each mark, ``*1``, ``*2``."""
        marks = dict.fromkeys(mark for row in self.rows for mark in row.marks)
        return {mark: f"*{number}" for number, mark in enumerate(marks, start=1)}


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that fit into ``width`` characters, taken in the order of their importance."""
    kept, used = [], -_GAP
    for column in sorted(columns, key=lambda column: column.keep):
        if column.keep == 0 or used + _GAP + column.width <= width:
            kept.append(column)
            used += _GAP + column.width
    return [column for column in columns if column in kept]


def print_columns(columns: Sequence[Column], console: Console) -> None:
    """A table: as much of it as fits in a terminal, all of it, aligned and never wrapped, anywhere else."""
    if not console.is_terminal:
        for line in zip(*(column.padded() for column in columns), strict=True):
            print_line(console, (" " * _GAP).join(line).rstrip())
        return
    kept = fitting(columns, console.width)
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for column in kept:
        # a cell too long even alone is folded, so that nothing of a chain is lost
        table.add_column(column.heading, justify=column.align, no_wrap=column.keep > 0, overflow="fold")
    for cells in zip(*(column.cells for column in kept), strict=True):
        table.add_row(*(Text(cell, _STYLES.get(cell, "")) for cell in cells))
    console.print(table)
    if left_out := [column.heading for column in columns if column not in kept]:
        console.print(f"not shown, for want of width: {', '.join(left_out)}", style="dim")


def print_line(console: Console, text: str, style: str = "") -> None:
    """One line as it is, never wrapped outside a terminal; ``style`` is a status."""
    console.print(text, style=_STYLES.get(style, ""), markup=False, soft_wrap=not console.is_terminal)
