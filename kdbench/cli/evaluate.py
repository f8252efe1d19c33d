"""``kdbench eval ID eval=[...]``: more measurements of a trained network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from kdbench.cli.arguments import Parser
from kdbench.cli.store import find
from kdbench.config.compose import Composer
from kdbench.config.jobs import make_jobs
from kdbench.core.errors import ConfigError, Problems, nearest
from kdbench.report.console import Column, make_console, print_columns, print_line
from kdbench.store import Store

MEANINGFUL = ("eval", "paths", "trainer", "trust", "dataset.root")  # the rest is what the network was trained with


def main(arguments: Sequence[str]) -> int:
    """Measures, prints, and keeps the record beside the store."""
    parser = Parser(prog="kdbench eval", description="More measurements of a trained network.")
    parser.add_argument("id", help="as kdbench store ls shows it")
    parser.add_argument(
        "overrides", nargs="*", default=[], help="eval=[calibration], eval.calibration.bins=20, paths.outputs=DIR"
    )
    parser.add_argument(
        "--split", choices=["val", "test"], default="test", help="samples to measure on (default: test)"
    )
    given = parser.parse_args(list(arguments))
    if "=" in given.id:
        raise ConfigError(f"{given.id}: which network? kdbench eval ID 'eval=[NAME,...]'; kdbench store ls shows them")
    if ids := [text for text in given.overrides if "=" not in text]:
        raise ConfigError(f"{' '.join(ids)}: KEY=VALUE is expected after the one network that is measured")
    composer = Composer()
    (job,) = make_jobs(composer, given.overrides)
    problems = Problems()
    for text in given.overrides:
        if not text.split("=")[0].startswith(MEANINGFUL):
            problems.add(f"{text}: means nothing here: what {given.id} was trained on and how is in its recipe")
    problems.check()
    if not (chosen := job.config.get("eval")):
        raise ConfigError(f"nothing to evaluate: choose with eval=[NAME,...]{nearest('', composer.options('eval'))}")
    store = Store(Path(job.config["paths"]["outputs"]).expanduser() / "store")
    entry = find(store, given.id)

    from kdbench.measure import evaluate_entry  # needs torch

    console = make_console()
    print_line(console, f"{entry.recipe.chain()} ({entry.id}) on the {given.split} set of {entry.recipe.data['name']}")
    for record in evaluate_entry(entry, chosen, job.config, split=given.split):
        _show(record["evaluation"], record["result"], console)
        print_line(console, f"  kept in {store.eval_path(entry.digest, record)}")
    return 0


def _show(name: str, result: Mapping[str, Any], console: Console) -> None:
    """One line per number; what comes in rows as a table."""
    print_line(console, name)
    for key, value in result.items():
        if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            print_columns(
                [Column(f"  {column}", [_text(row[column]) for row in value]) for column in value[0]], console
            )
        elif isinstance(value, list) and value and isinstance(value[0], list):
            print_line(console, f"  {key:<12} {len(value)} x {len(value[0])} numbers")
        else:
            print_line(console, f"  {key:<12} {_text(value)}")


def _text(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)
