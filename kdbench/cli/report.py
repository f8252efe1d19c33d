"""``kdbench report``: figures, tables and one page of what was run; reads results, trains nothing."""

import os
from collections.abc import Sequence
from pathlib import Path

from kdbench.cli.arguments import Parser
from kdbench.report.arms import arm_table
from kdbench.report.collect import find_run
from kdbench.report.console import make_console, print_columns, print_line
from kdbench.report.tables import as_columns
from kdbench.report.words import plain, sentences


def main(arguments: Sequence[str]) -> int:
    """Prints the table and the sentences, writes ``outputs/reports/<name>``, says where the page is."""
    parser = Parser(prog="kdbench report", description="Table, figures and one self-contained page of a run.")
    parser.add_argument("run", nargs="?", metavar="STUDY|FOLDER",
                        help="a run folder, or the name of one in outputs/runs (default: the newest)")  # fmt: skip
    parser.add_argument("--outputs", type=Path, default=Path(os.environ.get("KDBENCH_OUTPUTS", "outputs")),
                        help="the folder of paths.outputs (default: KDBENCH_OUTPUTS or ./outputs)")  # fmt: skip
    given = parser.parse_args(list(arguments))
    show_report(find_run(given.outputs.expanduser(), given.run))
    return 0


def show_report(folder: Path) -> Path:
    """Prints and writes the report of a run folder; the folder that it was written to.

    Raises:
        ConfigError: Nothing of it can be reported.
        StoreError: A network of it is damaged.
    """
    from kdbench.study import collect

    result = collect(folder)
    console = make_console()
    print_columns(as_columns(arm_table(result)), console)
    for line in [*(f"note: {flag}" for flag in result.flags), *sentences(result)]:
        print_line(console, plain(line))

    from kdbench.report.write import write_report  # needs matplotlib, a second to load

    outputs = folder.resolve().parent.parent
    page = write_report(result, outputs / "reports" / result.name)
    print_line(console, f"page: {page}")
    return page.parent
