"""Writes a report: page, tables, figures and the results as data."""

from __future__ import annotations

import json
from pathlib import Path

from kdbench.core.errors import ConfigError
from kdbench.report.arms import arm_records, markdown
from kdbench.report.figures import FIGURES, draw_all
from kdbench.report.page import render
from kdbench.report.pair_table import pair_table
from kdbench.report.results import StudyResult
from kdbench.report.svg import as_png, as_svg
from kdbench.report.tables import as_csv, as_markdown

PAGE = "index.html"


def write_report(result: StudyResult, folder: Path) -> Path:
    """Writes ``index.html``, ``table.csv``, ``table.md``, ``results.json`` and ``figures/``: no dates, same bytes.

    Figures of an earlier report that these results no longer allow are removed.

    Returns:
        The page's path.

    Raises:
        ConfigError: The folder cannot be written.
    """
    drawings = draw_all(result)
    svgs = {name: as_svg(drawing) for name, drawing in drawings.items()}
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for name in FIGURES.keys() - drawings.keys():
            for suffix in ("svg", "png"):
                (folder / "figures" / f"{name}.{suffix}").unlink(missing_ok=True)
        for name, drawing in drawings.items():
            (folder / "figures" / f"{name}.svg").write_text(svgs[name], encoding="utf-8")
            (folder / "figures" / f"{name}.png").write_bytes(as_png(drawing))
        texts = {
            PAGE: render(result, drawings, svgs),
            "table.csv": as_csv(arm_records(result)),
            "table.md": markdown(result) + (f"\n{as_markdown(pairs)}" if (pairs := pair_table(result)) else ""),
            "results.json": json.dumps(result.to_dict(), indent=1, sort_keys=True) + "\n",
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); name another with --outputs") from error
    return folder / PAGE
