"""Rows of measurements: their ratios, their table, their JSON, and the thresholds they are held to."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One thing that was measured several times.

    Attributes:
        group: Rows of one group are compared with each other, e.g. those of one pair of networks.
        name: What was measured.
        values: One per round; the rounds of a group's rows are interleaved, so that noise of the machine hits all.
        unit: Of the values, e.g. ``ms/step``.
        per_second: Whether more is better.
    """

    group: str
    name: str
    values: Sequence[float]
    unit: str
    per_second: bool = False

    def speed_over(self, other: Row) -> float:
        """How many times as fast as ``other``: the median over rounds, since rounds share what else the machine did."""
        pairs = zip(self.values, other.values, strict=False)
        return median(mine / theirs if self.per_second else theirs / mine for mine, theirs in pairs)


@dataclass(frozen=True)
class Threshold:
    """What ``--check`` asks for.

    Attributes:
        group: Of the rows.
        row: Name of the row that must be good.
        over: The row it must be ``least`` times as fast as; ``None`` compares the median with ``least`` or ``most``.
        least: Smallest value allowed.
        most: Largest value allowed.
    """

    group: str
    row: str
    over: str | None = None
    least: float | None = None
    most: float | None = None

    def failure(self, rows: Sequence[Row]) -> str | None:
        """What is wrong, in a line; ``None`` if nothing is, or if the row was not measured."""
        found = {row.name: row for row in rows if row.group == self.group}
        if self.row not in found or (self.over is not None and self.over not in found):
            return None
        mine = found[self.row]
        value = median(mine.values) if self.over is None else mine.speed_over(found[self.over])
        subject = f"{self.group}: {self.row}" + (f" over {self.over}" if self.over else f" [{mine.unit}]")
        if self.least is not None and value < self.least:
            return f"{subject}: {value:.3g} < {self.least:g}"
        if self.most is not None and value > self.most:
            return f"{subject}: {value:.3g} > {self.most:g}"
        return None


def _ratios(rows: Sequence[Row]) -> list[float | None]:
    """Speed of each row over the first of its group with the same unit."""
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        first.setdefault((row.group, row.unit), row)
    return [row.speed_over(base) if (base := first[row.group, row.unit]) is not row else 1.0 for row in rows]


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """Median, smallest, largest, and the speed over the first row of the group."""
    table = Table(box=box.MARKDOWN)
    for title in ("", "what", "unit", "median", "min", "max", "ratio"):
        table.add_column(title, justify="left" if title in ("", "what", "unit") else "right", no_wrap=True)
    group = None
    for row, ratio in zip(rows, _ratios(rows), strict=True):
        numbers = [f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in _summary(row)]
        table.add_row(row.group if row.group != group else "", row.name, row.unit, *numbers, f"{ratio:.2f}")
        group = row.group
    (console or Console(width=140)).print(table)


def _summary(row: Row) -> tuple[float, float, float]:
    return median(row.values), min(row.values), max(row.values)


def machine() -> dict[str, Any]:
    """What a number depends on beside the code."""
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
    )
    return {
        "cpu": model,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.is_file() else []


def write_json(name: str, rows: Iterable[Row], folder: Path) -> Path:
    """``folder/NAME.json`` with every single value, so that other statistics can be made of them later."""
    rows = list(rows)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    found = [
        {**vars(row), "values": list(row.values), "median": median(row.values), "ratio": ratio}
        for row, ratio in zip(rows, _ratios(rows), strict=True)
    ]
    file.write_text(json.dumps({"bench": name, "machine": machine(), "rows": found}, indent=1) + "\n")
    return file
