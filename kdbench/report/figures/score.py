"""The distillation score: against size, its ranks by alpha, and its level lines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdbench.metrics.distillation_score import ALPHAS, distillation_score
from kdbench.report.figures._style import GREY, GRID, MARKERS, MUTED, SERIES, Drawing, panel, readable
from kdbench.report.results import StudyResult
from kdbench.report.scores import Scored, against_root, one_family

_RANK_ALPHAS = (0.0, *ALPHAS, 1.0)
_RANKED = 8  # lines of a bump chart that can be followed


def _sizes(scored: Sequence[Scored]) -> int:
    return len({one.size for one in scored})


def draw_score(result: StudyResult) -> Drawing | None:
    """Score against relative size at three alphas; needs students of three sizes under one teacher."""
    scored = one_family(against_root(result))
    if _sizes(scored) < 3:
        return None
    figure, axes = panel()
    for index, alpha in enumerate(ALPHAS):
        colour = SERIES[index]
        best: dict[float, float] = {}
        for one in scored:
            best[one.size] = min(best.get(one.size, np.inf), one.score(alpha))
        axes.scatter([one.size for one in scored], [one.score(alpha) for one in scored], s=14, color=colour, alpha=0.45,
                     linewidth=0)  # fmt: skip
        axes.plot(sorted(best), [best[size] for size in sorted(best)], color=colour, marker=MARKERS[index],
                  label=f"alpha = {alpha:g}")  # fmt: skip
    axes.set_xscale("log")
    ticks = readable(one.size for one in scored)
    axes.set_xticks(ticks, [f"{100 * tick:.2g} %" for tick in ticks])
    axes.minorticks_off()
    axes.legend()
    axes.set_xlabel("parameters, relative to the teacher")
    axes.set_ylabel("distillation score (lower is better)")
    teacher = scored[0].group.first.chain[0]
    return Drawing(figure, "Distillation score by size",
                   f"Every network taught below {teacher}, scored against it; lines join the best of each size. alpha "
                   "is the weight of size: 0.25 prefers accuracy, 0.75 compactness.")  # fmt: skip


def draw_ranks(result: StudyResult) -> Drawing | None:
    """Ranks of the chains as alpha moves; needs three students of two sizes under one teacher."""
    scored = one_family(against_root(result))
    if len(scored) < 3 or _sizes(scored) < 2:
        return None
    ranks = {alpha: sorted(scored, key=lambda one: one.score(alpha)) for alpha in _RANK_ALPHAS}
    best = sorted(scored, key=lambda one: min(ranks[alpha].index(one) for alpha in _RANK_ALPHAS))[:_RANKED]
    figure, axes = panel(4.8, 3.8)
    for one in scored:
        places = [ranks[alpha].index(one) + 1 for alpha in _RANK_ALPHAS]
        if one not in best:
            axes.plot(_RANK_ALPHAS, places, color=GRID, zorder=1)
            continue
        index = best.index(one)
        colour = SERIES[index % len(SERIES)]
        axes.plot(_RANK_ALPHAS, places, color=colour, marker=MARKERS[index % len(MARKERS)],
                  linestyle="-" if index < len(SERIES) else "--", label=one.label)  # fmt: skip
    axes.invert_yaxis()
    axes.set_xticks(_RANK_ALPHAS)
    axes.set_yticks(range(1, len(scored) + 1, 1 + len(scored) // 12))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("alpha: accuracy alone (0) to size alone (1)")
    axes.set_ylabel("rank (1 is best)")
    figure.legend(loc="outside lower center", ncols=1)
    return Drawing(figure, "Ranks depend on alpha",
                   f"Every chain ranked by its distillation score; the {len(best)} that come nearest to the top are "
                   "named, the others grey.")  # fmt: skip


def draw_levels(result: StudyResult) -> Drawing | None:
    """Accuracy kept against size kept, with lines of equal score; needs students of two sizes under one teacher."""
    scored = one_family(against_root(result))
    if _sizes(scored) < 2:
        return None
    figure, axes = panel()
    axes.scatter([one.size for one in scored], [one.accuracy for one in scored], s=30, color=SERIES[0], alpha=0.85,
                 linewidth=0, zorder=3)  # fmt: skip
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.2)
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    low = max(low, 0.0)  # of students that have learned nothing the margin would lie below it
    sizes, accuracies = np.geomspace(left, right, 120), np.linspace(low, high, 120)
    levels = distillation_score(np.broadcast_to(sizes, (120, 120)), 1.0,
                                np.repeat(accuracies[:, None], 120, axis=1), 1.0)  # fmt: skip
    lines = axes.contour(sizes, accuracies, levels, levels=6, colors=MUTED, linewidths=0.8, linestyles=":")
    axes.clabel(lines, fontsize=8, colors=GREY)
    axes.set_xlim(left, right)
    ticks = readable(one.size for one in scored)
    axes.set_xticks(ticks, [f"{100 * tick:.2g} %" for tick in ticks])
    axes.minorticks_off()
    axes.grid(visible=False)
    axes.set_xlabel("parameters, relative to the teacher")
    axes.set_ylabel("test accuracy, relative to the teacher")
    return Drawing(figure, "Size given up, accuracy kept",
                   "Each taught network beside the first of its chain; dotted, equal score at alpha 0.5.")  # fmt: skip
