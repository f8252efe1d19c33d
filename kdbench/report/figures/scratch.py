"""Accuracy alone against size, and the assistant that the rule of the mean chooses (TAKD, Fig. 4)."""

from __future__ import annotations

from kdbench.report.figures._style import BLUE, GREY, ORANGE, Drawing, by_size, error_line, panel, sizes_axis, unique
from kdbench.report.queries import choose_assistant
from kdbench.report.results import StudyResult
from kdbench.report.summary import group


def draw_scratch(result: StudyResult) -> Drawing | None:
    """Needs three sizes that were trained alone on one budget."""
    alone = by_size(one for one in group(result.networks) if len(one.first.chain) == 1)
    budgets = {(one.first.epochs, one.first.images) for one in alone}
    if len(alone) < 3 or len(budgets) > 1 or not unique(alone):
        return None
    means = {one.first.name: one.accuracy.mean for one in alone}
    student, *_, teacher = means
    target = (means[student] + means[teacher]) / 2
    chosen = choose_assistant(means, student, teacher)
    figure, axes = panel()
    error_line(axes, range(len(alone)), alone, color=BLUE, marker="o")
    axes.axhline(target, color=GREY, linewidth=1.2, linestyle="--")
    axes.annotate("mean of student and teacher", (1, target), xycoords=("axes fraction", "data"), xytext=(-4, -11),
                  textcoords="offset points", ha="right", color=GREY, fontsize=8)  # fmt: skip
    place = list(means).index(chosen)
    axes.plot([place], [means[chosen]], marker="o", markersize=13, markerfacecolor="none", markeredgecolor=ORANGE,
              markeredgewidth=1.8, linestyle="none")  # fmt: skip
    axes.annotate(chosen, (place, means[chosen]), xytext=(0, 12), textcoords="offset points", ha="center", color=ORANGE)
    sizes_axis(axes, [one.first for one in alone])
    axes.margins(y=0.15)
    axes.set_xlabel("network, trained alone")
    axes.set_ylabel("test accuracy, %")
    return Drawing(figure, "Which assistant the rule of the mean chooses",
                   f"Accuracy of each size trained alone; the ring marks {chosen}, nearest to the mean of {student} "
                   f"and {teacher} ({target:.2f} %). Means over seeds with 95 % intervals.")  # fmt: skip
