"""``kdbench data check|fetch NAME``: are the files there and the right ones; get them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from kdbench.cli.arguments import Parser
from kdbench.config.compose import Composer
from kdbench.config.jobs import make_jobs
from kdbench.core.errors import ConfigError, DataError
from kdbench.data.catalog import locate, places
from kdbench.data.fetch import fetch, md5_of
from kdbench.data.huggingface import fetch_table
from kdbench.data.sources import SOURCES
from kdbench.report.console import Column, count_text, make_console, print_columns, print_line


def main(arguments: Sequence[str]) -> int:
    """Runs a sub-command of ``kdbench data``."""
    parser = Parser(prog="kdbench data", description="Files of datasets; a training never downloads anything.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="where the files are, whether they are the published ones and readable")
    check.set_defaults(run=_check)
    get = commands.add_parser("fetch", help="download them into paths.data; goes on where a download broke off")
    get.add_argument("--mirror", action="append", default=[], metavar="URL",
                     help="a folder that has the files, tried before the published ones; may be repeated")  # fmt: skip
    get.set_defaults(run=_fetch)
    for command in (check, get):
        command.add_argument("name", help="as in dataset=")
        command.add_argument("overrides", nargs="*", default=[], help="paths.data=DIR, dataset.root=DIR")
    given = parser.parse_args(list(arguments))
    (job,) = make_jobs(Composer(), [f"dataset={given.name}", *given.overrides])
    return given.run(job.config["dataset"], Path(job.config["paths"]["data"]).expanduser(), given)


def _check(config: Mapping[str, Any], data_dir: Path, _: argparse.Namespace) -> int:
    console = make_console()
    folder = locate(config["reader"], config["root"], data_dir)
    right = _show_files(config, folder, data_dir, console) if folder else True

    from kdbench.data.load import load_data  # needs torch; reads everything, as a training would

    data = load_data(config, data_dir)
    parts = (("train", data.train), ("validation", data.val or ()), ("test", data.test))
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in parts)
    where = folder or config.get("repo") or "come with kdbench"
    print_line(console, f"{config['name']}: {sizes} images, {data.spec.num_classes} classes; {where}")
    return 0 if right else 1


def _show_files(config: Mapping[str, Any], folder: Path, data_dir: Path, console: Console) -> bool:
    """A line per file; whether none differs from the published one."""
    layout = next((layout for place, layout in places(config["reader"], config["root"], data_dir)
                   if place == folder and all(layout.find(folder, name) for name in layout.files)), None)  # fmt: skip
    if layout is None:
        return True
    files = [path for name in layout.files if (path := layout.find(folder, name)) and path.is_file()]
    states = [_state(path, layout.md5.get(path.name)) for path in files]
    print_columns(
        [
            Column("file", [path.name for path in files]),
            Column("bytes", [count_text(path.stat().st_size) for path in files], align="right"),
            Column("MD5", states),
        ],
        console,
    )
    return not any(state.startswith("differs") for state in states)


def _state(path: Path, published: str | None) -> str:
    if published is None:
        return "none is known"
    return "as published" if md5_of(path) == published else f"differs from the published {published}"


def _fetch(config: Mapping[str, Any], data_dir: Path, given: argparse.Namespace) -> int:
    console = make_console()
    source = SOURCES[config["reader"]]
    if config["root"] is not None:
        raise ConfigError("dataset.root names a folder that is there; files are fetched into paths.data=DIR")
    if source.hub:
        fetch_table(config)
        print_line(console, f"{config['repo']} is in the hub's cache")
        return 0
    if not source.archives:
        raise ConfigError(f"dataset {config['name']}: there is nothing to fetch; it comes with kdbench, or is your own")
    try:
        print_line(console, f"{config['name']} is there already: {locate(config['reader'], None, data_dir)}")
        return 0
    except DataError:
        pass  # then it is fetched
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    for archive in source.archives:
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task(archive.name, total=None)

            def show(done: int, total: int | None, bar: Progress = progress, task: TaskID = task) -> None:
                bar.update(task, completed=done, total=total)

            folder = fetch(archive, data_dir, mirrors=given.mirror, report=show)
        print_line(console, f"{archive.name}: in {folder}")
    print_line(console, f"{config['name']} is there: {locate(config['reader'], None, data_dir)}")
    return 0
