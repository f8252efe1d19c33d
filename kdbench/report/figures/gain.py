"""What distillation adds, in percent of the accuracy from scratch, against student size (TAKD, Fig. 3)."""

from __future__ import annotations

from kdbench.report.figures._style import (
    GREY,
    MARKERS,
    SERIES,
    Drawing,
    by_size,
    direct,
    panel,
    sizes_axis,
    spread,
    unique,
)
from kdbench.report.results import StudyResult
from kdbench.report.summary import Group, Summary, scratch, summarise


def relative_gain(taught: Group, alone: Group) -> Summary | None:
    """``100 (taught / alone - 1)`` in percent: seed by seed where both have the same seeds, else of the means.

    ``None`` where a network alone is never right: nothing can be a multiple of that.
    """
    ours = {network.seed: network.test_acc for network in taught.networks}
    theirs = {network.seed: network.test_acc for network in alone.networks}
    if not all(theirs.values()):
        return None
    if ours.keys() == theirs.keys():
        return summarise([100 * (ours[seed] / theirs[seed] - 1) for seed in sorted(ours)])
    return summarise([100 * (taught.accuracy.mean / alone.accuracy.mean - 1)])


def draw_gain(result: StudyResult) -> Drawing | None:
    """One line per method; needs two students of one teacher, and the same students alone."""
    families: dict[tuple[str, str | None], list[tuple[Group, Summary]]] = {}
    for one in by_size(direct(result)):
        if (alone := scratch(result, one.first)) and (gain := relative_gain(one, alone)):
            families.setdefault((one.first.chain[0], one.first.method), []).append((one, gain))
    teacher = max(families, key=lambda key: len(families[key]), default=("", None))[0]
    lines = {method: pairs for (name, method), pairs in families.items()
             if name == teacher and len(pairs) > 1 and unique(pair[0] for pair in pairs)}  # fmt: skip
    if not lines:
        return None
    students = by_size({pair[0].first.name: pair[0] for pairs in lines.values() for pair in pairs}.values())
    names = [one.first.name for one in students]
    figure, axes = panel()
    axes.axhline(0, color=GREY, linewidth=1, linestyle=":")
    for index, (method, pairs) in enumerate(lines.items()):
        axes.errorbar([names.index(one.first.name) for one, _ in pairs], [gain.mean for _, gain in pairs],
                      [spread(gain) for _, gain in pairs], color=SERIES[index % len(SERIES)],
                      marker=MARKERS[index % len(MARKERS)], label=method)  # fmt: skip
    if len(lines) > 1:
        axes.legend()
    sizes_axis(axes, [one.first for one in students])
    axes.set_xlabel("student")
    axes.set_ylabel("gain over training alone, %")
    return Drawing(figure, "What teaching adds, by the student's size",
                   f"100 (taught / alone - 1), taught directly by {teacher}. Means over seeds with 95 % intervals; "
                   "without shared seeds, the ratio of the means.")  # fmt: skip
