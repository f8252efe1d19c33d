"""``kdbench store``: everything ever trained."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from kdbench.cli.arguments import Parser
from kdbench.core.errors import ConfigError, StoreError
from kdbench.plan import method_name
from kdbench.report.console import Column, count_text, make_console, percent_text, print_columns, print_line, time_text
from kdbench.store import Entry, Store
from kdbench.store.cache import OutputCache


def main(arguments: Sequence[str]) -> int:
    """Runs a sub-command of ``kdbench store``."""
    parser = Parser(prog="kdbench store", description="Networks trained so far; nothing in it ever runs code.")
    parser.add_argument("--outputs", type=Path, default=Path(os.environ.get("KDBENCH_OUTPUTS", "outputs")),
                        help="the folder of paths.outputs (default: KDBENCH_OUTPUTS or ./outputs)")  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ls = commands.add_parser("ls", help="one line per network")
    ls.set_defaults(run=_ls)
    show = commands.add_parser("show", help="a network's recipe, numbers and files")
    show.add_argument("id")
    show.set_defaults(run=_show)
    verify = commands.add_parser("verify", help="check every file against its checksum")
    verify.set_defaults(run=_verify)
    gc = commands.add_parser("gc", help="remove what no training will go on with")
    gc.add_argument("--dry-run", action="store_true", help="say what would be removed")
    gc.add_argument("--broken", action="store_true", help="also damaged networks")
    gc.add_argument("--older-than", type=float, default=7.0, metavar="DAYS",
                    help="interrupted trainings, unused outputs of teachers (default: 7)")  # fmt: skip
    gc.set_defaults(run=_gc)
    rm = commands.add_parser("rm", help="remove one network")
    rm.add_argument("id")
    rm.add_argument("--force", action="store_true", help="even if others were taught by it")
    rm.set_defaults(run=_rm)
    given = parser.parse_args(list(arguments))
    return given.run(Store(given.outputs.expanduser() / "store"), given)


def find(store: Store, text: str) -> Entry:
    """The network that was named on the command line.

    Raises:
        ConfigError: There is none, or several; nothing was started.
    """
    try:
        return store.find(text)
    except StoreError as error:
        raise ConfigError(error.problems) from error


def _ls(store: Store, _: argparse.Namespace) -> int:
    entries, broken = store.scan()
    print_columns(
        [
            Column("id", [entry.id for entry in entries]),
            Column("network", [entry.recipe.chain() for entry in entries]),
            Column("dataset", [str(entry.recipe.data["name"]) for entry in entries], keep=2),
            Column("method", [method_name(entry.recipe) or "-" for entry in entries], keep=3),
            Column("seed", [str(entry.recipe.seed) for entry in entries], keep=4, align="right"),
            Column("epochs", [str(entry.metrics["epochs"]) for entry in entries], keep=6, align="right"),
            Column("params", [count_text(entry.metrics["parameters"]) for entry in entries], keep=7, align="right"),
            Column("test %", [percent_text(entry.metrics["test"]["acc"]) for entry in entries], keep=1, align="right"),
            Column("time", [time_text(entry.metrics["seconds"]["total"]) for entry in entries], keep=8, align="right"),
            Column("made", [f"{entry.created:%Y-%m-%d %H:%M}" for entry in entries], keep=5),
        ],
        make_console(),
    )
    console = make_console()
    print_line(console, f"{len(entries)} networks in {store.root}")
    for error in broken.values():
        print_line(console, f"broken: {error.problems[0]}", "failed")
    return 1 if broken else 0


def _show(store: Store, given: argparse.Namespace) -> int:
    entry = find(store, given.id)
    console = make_console()
    for line in _card(entry, store):
        print_line(console, line)
    return 0


def _card(entry: Entry, store: Store) -> list[str]:
    lines = [f"{entry.recipe.chain()}   {entry.digest}", f"made {entry.created:%Y-%m-%d %H:%M} UTC   {entry.path}", ""]
    own = {key: value for key, value in entry.recipe.to_dict().items() if key != "teachers"}
    for title, content in (("recipe", own), ("metrics", entry.metrics), ("environment", entry.env)):
        lines += [title, *(f"  {line}" for line in json.dumps(content, indent=2, default=dict).splitlines()[1:-1])]
    lines += ["teachers", *(f"  {teacher.digest[:8]} {teacher.chain()}" for teacher in entry.recipe.teachers)]
    lines += [f"evaluation {json.dumps(record)}" for record in store.evals(entry.digest)]
    return lines


def _verify(store: Store, _: argparse.Namespace) -> int:
    console = make_console()
    found = store.verify()
    broken = {digest: problems for digest, problems in found.items() if problems}
    for digest, problems in broken.items():
        for problem in problems:
            print_line(console, f"{digest[:8]} {problem}", "failed")
    print_line(console, f"{len(found) - len(broken)} of {len(found)} networks are as they were written"
                        + ("; kdbench store gc --broken removes the others" if broken else ""))  # fmt: skip
    return 1 if broken else 0


def _gc(store: Store, given: argparse.Namespace) -> int:
    console = make_console()
    garbage = store.gc(dry_run=given.dry_run, broken=given.broken, older_than_days=given.older_than)
    garbage += OutputCache(store.root.parent / "cache").gc(
        {entry.digest for entry in store}, dry_run=given.dry_run, older_than_days=given.older_than
    )
    for item in garbage:
        print_line(console, f"{count_text(item.bytes)}B  {item.path}: {item.reason}")
    verb = "would be" if given.dry_run else "were"
    print_line(console, f"{len(garbage)} things {verb} removed, {count_text(sum(item.bytes for item in garbage))}B")
    return 0


def _rm(store: Store, given: argparse.Namespace) -> int:
    entry = find(store, given.id)
    store.remove(entry.digest, force=given.force)
    print_line(make_console(), f"removed {entry.id} ({entry.recipe.chain()})")
    return 0
