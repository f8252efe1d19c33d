"""The final run of a W&B study: the tables and figures that a report has written."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdbench.core.errors import UserError
from kdbench.loggers._run import RunInfo
from kdbench.loggers._wandb import open_wandb


def log_report(folder: Path, *, project: str, group: str = "", options: Mapping[str, Any] | None = None) -> list[str]:
    """Logs every ``*.csv`` as a table and every ``*.png`` as an image, in one run of job type ``report``.

    Without a key or a network the run is logged offline, below ``folder``.

    Args:
        folder: What a report has written; its sub-folders are read as well.
        project: The study's name.
        group: The sweep's name.
        options: As in ``configs/logger/wandb.yaml``.

    Returns:
        The names under which things were logged; none where W&B is switched off.

    Raises:
        UserError: There is nothing to log.
    """
    files = [path for path in sorted(folder.rglob("*")) if "wandb" not in path.relative_to(folder).parts]
    tables = {_name(path, folder): path for path in files if path.suffix == ".csv"}
    figures = {_name(path, folder): path for path in files if path.suffix == ".png"}
    if not tables and not figures:
        raise UserError(f"{folder}: no table (*.csv) and no figure (*.png) to log; write them with kdbench report")
    info = RunInfo(project, group, "report", f"report {folder.name}", {}, folder)
    if (opened := open_wandb(info, **(options or {}))) is None:
        return []
    import wandb

    logged = {f"tables/{name}": wandb.Table(*_read(path)) for name, path in tables.items()}
    logged |= {f"figures/{name}": wandb.Image(str(path)) for name, path in figures.items()}
    try:
        opened.run.log(logged)
    finally:
        opened.finish({}, "done")
    return list(logged)


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _read(path: Path) -> tuple[list[Any], list[Any]]:
    """Columns and rows; a column of numbers stays one."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    columns = [[row[index] for row in rows] for index in range(len(header))]
    return header, [list(row) for row in zip(*map(_typed, columns), strict=True)]


def _typed(column: list[str]) -> Sequence[float | str]:
    try:
        return [float(cell or "nan") for cell in column]
    except ValueError:
        return column
