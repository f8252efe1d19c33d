"""``kdbench studies``: what can be asked with one word, and what it costs in networks."""

from collections.abc import Sequence
from typing import NamedTuple

from kdbench.cli.arguments import Parser
from kdbench.cli.listing import listed
from kdbench.config.compose import Composer, Setting
from kdbench.config.studies import NONE, Study
from kdbench.report.console import Column, make_console, print_columns


class Row(NamedTuple):
    """One study, in words."""

    study: str
    networks: str
    datasets: str
    question: str
    source: str


def main(arguments: Sequence[str]) -> int:
    """Lists the studies, with the networks that one seed of each trains."""
    Parser(prog="kdbench studies", description="Studies for kdbench -m study=NAME [study.size=smoke]; networks are "
           "those that one seed trains.").parse_args(list(arguments))  # fmt: skip
    columns = [
        Column(name, list(cells), keep)
        for keep, (name, cells) in enumerate(zip(Row._fields, zip(*study_rows(), strict=True), strict=True))
    ]
    print_columns(columns, make_console())
    return 0


def study_rows() -> list[Row]:
    """Every study of the config folder; a new file is listed by being there."""
    composer = Composer()
    names = [option.name for option in listed("study") if option.name != NONE and not option.name.startswith("_")]
    rows = []
    for name in names:
        study = Study(composer, [Setting("study", name, f"study={name}")])
        config = study.config
        datasets = config["families"][config["family"]]["datasets"]
        rows.append(Row(name, str(study.size()), ", ".join(datasets), config["question"], config["source"]))
    return rows
