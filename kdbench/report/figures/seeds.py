"""Every replicate of every arm: dots, mean, interval."""

from __future__ import annotations

from kdbench.report.figures._style import BLUE, GREY, INK, ORANGE, Drawing, panel
from kdbench.report.results import StudyResult
from kdbench.report.summary import summarise
from kdbench.report.words import arrows


def draw_seeds(result: StudyResult) -> Drawing | None:
    """One row per arm, the first on top; published values only beside a full study."""
    figure, axes = panel(4.8, 0.7 + 0.44 * len(result.arms))
    published = {value.arm: value for value in result.published} if result.size == "full" else {}
    for row, arm in enumerate(result.arms):
        values = [network.test_acc for network in arm.networks]
        summary = summarise(values)
        if summary.low is not None and summary.high is not None:
            axes.plot([summary.low, summary.high], [row, row], color=INK, linewidth=1.2, zorder=1)
        axes.plot([summary.mean], [row], marker="|", markersize=13, markeredgewidth=2, color=INK, zorder=3)
        axes.plot(values, [row] * len(values), linestyle="none", marker="o", color=BLUE if arm.method else GREY,
                  alpha=0.75, markeredgewidth=0, zorder=2)  # fmt: skip
        if arm.name in published:
            axes.plot([published[arm.name].value], [row], linestyle="none", marker="D", markerfacecolor="none",
                      markeredgecolor=ORANGE, markeredgewidth=1.4, zorder=3)  # fmt: skip
    axes.set_yticks(range(len(result.arms)), [_wrapped(arm.label) for arm in result.arms], fontsize=8.5)
    axes.set_ylim(len(result.arms) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("test accuracy, %")
    also = " Diamonds: published." if published else ""
    return Drawing(
        figure, "Every seed", f"Dots: one network each. Bar: mean. Line: 95 % interval of the mean (Student's t).{also}"
    )


def _wrapped(label: str) -> str:
    """In two lines where it is long, so that the figure keeps its width for the numbers."""
    words = arrows(label).split(" ")
    if len(label) < 24:
        return " ".join(words)
    half = (len(words) + 1) // 2 + (len(words) + 1) // 2 % 2
    return " ".join(words[:half]) + "\n" + " ".join(words[half:])
