"""Accuracy against cost, with the networks that nothing beats in both."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kdbench.report.console import count_text
from kdbench.report.figures._style import INK, Drawing, kind, looks, panel, readable
from kdbench.report.results import Network, StudyResult
from kdbench.report.summary import Group, group


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, accuracy) that no cheaper or equally cheap one matches, cheapest first."""
    kept: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not kept or points[index][1] > points[kept[-1]][1]:
            kept.append(index)
    return kept


def draw_parameters(result: StudyResult) -> Drawing | None:
    """Needs networks of two sizes."""
    return _draw(result, lambda network: network.parameters, "parameters")


def draw_macs(result: StudyResult) -> Drawing | None:
    """Needs networks of two costs."""
    return _draw(result, lambda network: network.macs, "multiply-accumulates per sample")


def _draw(result: StudyResult, cost: Callable[[Network], float], what: str) -> Drawing | None:
    groups = group(result.networks)
    if len({cost(one.first) for one in groups}) < 2 or min(cost(one.first) for one in groups) <= 0:
        return None
    figure, axes = panel()
    kinds: dict[str, list[Group]] = {}
    for one in groups:
        kinds.setdefault(kind(one.first), []).append(one)
    given = looks(kinds)
    for name, members in kinds.items():
        colour, marker = given[name]
        axes.scatter([cost(one.first) for one in members], [one.accuracy.mean for one in members], s=30, color=colour,
                     marker=marker, label=name, alpha=0.85, linewidth=0)  # fmt: skip
    points = [(cost(one.first), one.accuracy.mean) for one in groups]
    best = front(points)
    axes.step([points[i][0] for i in best], [points[i][1] for i in best], where="post", color=INK, linewidth=0.9,
              zorder=1, label="front")  # fmt: skip
    for i in best:
        axes.annotate(groups[i].first.name, points[i], xytext=(-5, 5), textcoords="offset points", ha="right",
                      fontsize=8.5)  # fmt: skip
    axes.set_xscale("log")
    axes.margins(x=0.18, y=0.1)
    ticks = readable({point[0] for point in points})
    axes.set_xticks(ticks, [count_text(tick) for tick in ticks])
    axes.minorticks_off()
    axes.legend(loc="lower right")
    axes.set_xlabel(what)
    axes.set_ylabel("test accuracy, %")
    return Drawing(figure, f"Accuracy and {what.split(' per ')[0]}",
                   f"Every network of the study, means over seeds, against {what} (log scale). The line joins those "
                   "that no network of equal or lower cost matches.")  # fmt: skip
