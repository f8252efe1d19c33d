"""Figures: each a function from results to a drawing, or to nothing where the data has not what it needs."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib import rc_context

from kdbench.report.figures._style import RC, Drawing
from kdbench.report.figures.curves import draw_curves
from kdbench.report.figures.gain import draw_gain
from kdbench.report.figures.gap import draw_gap
from kdbench.report.figures.landscape import draw_landscape
from kdbench.report.figures.pareto import draw_macs, draw_parameters
from kdbench.report.figures.paths import draw_paths
from kdbench.report.figures.score import draw_levels, draw_ranks, draw_score
from kdbench.report.figures.scratch import draw_scratch
from kdbench.report.figures.seeds import draw_seeds
from kdbench.report.results import StudyResult

__all__ = ["FIGURES", "Drawing", "draw_all"]

FIGURES: dict[str, Callable[[StudyResult], Drawing | None]] = {
    "seeds": draw_seeds,
    "gap": draw_gap,
    "gain": draw_gain,
    "scratch": draw_scratch,
    "paths": draw_paths,
    "parameters": draw_parameters,
    "macs": draw_macs,
    "score": draw_score,
    "ranks": draw_ranks,
    "levels": draw_levels,
    "landscape": draw_landscape,
    "curves": draw_curves,
}
_ARMS_ONLY = ("seeds", "landscape", "curves")  # they join nothing across datasets or protocols


def draw_all(result: StudyResult) -> dict[str, Drawing]:
    """Every figure that the results allow, by the name of its file.

    Numbers of different datasets or protocols never share a line: with several, only what keeps arms apart is drawn.
    """
    mixed = len({(network.dataset, network.protocol) for network in result.networks}) > 1
    with rc_context(RC):
        drawn = {name: draw(result) for name, draw in FIGURES.items() if not mixed or name in _ARMS_ONLY}
    return {name: drawing for name, drawing in drawn.items() if drawing is not None}
