"""Lists of options, found by looking into the config folders: a new file is listed without being registered."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from kdbench.config.source import config_root
from kdbench.report.console import Column, make_console, print_columns


class Option(NamedTuple):
    """One option of a group, with the first line of its file."""

    name: str
    about: str


def listed(group: str) -> list[Option]:
    """Every option of a group, numbers within names in their order."""
    files = (config_root() / group).glob("*.yaml")
    return [Option(file.stem, _about(file.read_text())) for file in sorted(files, key=lambda file: _natural(file.stem))]


def _natural(name: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _about(text: str) -> str:
    return next(
        (line.lstrip("# ") for line in text.splitlines() if line.startswith("# ") and "@package" not in line), ""
    )


def print_listing(options: Sequence[Option]) -> None:
    """One line per option."""
    columns = [
        Column("name", [option.name for option in options]),
        Column("what", [option.about for option in options]),
    ]
    print_columns(columns, make_console())
