"""The house style: few colours that colour-blind readers tell apart, no boxes, names of sizes on the axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdbench.report.console import count_text
from kdbench.report.results import Network, StudyResult
from kdbench.report.summary import Group, Summary, group

# each of these is unique, so that the page can exchange it for a variable that follows dark and light
INK, MUTED, GRID, PAPER = "#1b1e23", "#626a73", "#dfe3e8", "#ffffff"
BLUE, ORANGE, GREEN, PINK, OCHRE, GREY = "#0067a5", "#c8500a", "#00805e", "#a64d82", "#8a6d00", "#56616c"
SERIES = (BLUE, ORANGE, GREEN, PINK, OCHRE)
MARKERS = ("o", "s", "^", "D", "v")
COLOURS = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", BLUE: "blue", ORANGE: "orange", GREEN: "green",
           PINK: "pink", OCHRE: "ochre", GREY: "grey"}  # fmt: skip

RC: dict[Any, Any] = {
    "figure.facecolor": PAPER, "axes.facecolor": "none", "savefig.facecolor": PAPER, "svg.fonttype": "none",
    "svg.hashsalt": "kdbench", "font.size": 9.5, "axes.titlesize": 9.5, "axes.labelsize": 9.5, "text.color": INK,
    "axes.labelcolor": INK, "axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 0.8, "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.8,
    "lines.linewidth": 1.6, "lines.markersize": 5.5, "legend.frameon": False, "legend.fontsize": 8.5,
    "errorbar.capsize": 2.5, "figure.constrained_layout.use": True,
}  # fmt: skip


class Drawing(NamedTuple):
    """A figure with what stands above and below it.

    Attributes:
        figure: Drawn in the house style.
        title: A few words.
        caption: What is shown and how it was computed; also the figure's text for those who cannot see it.
    """

    figure: Figure
    title: str
    caption: str


def panel(width: float = 4.8, height: float = 3.4) -> tuple[Figure, Axes]:
    """An empty figure of one pair of axes; inches, small enough to be read on a phone without zooming."""
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def sizes_axis(axes: Axes, networks: Sequence[Network]) -> None:
    """One place on the horizontal axis for each network, with its name and its parameters."""
    labels = [f"{network.name}\n{count_text(network.parameters)}" for network in networks]
    axes.set_xticks(range(len(networks)), labels)
    axes.set_xlim(-0.4, len(networks) - 0.6)
    axes.grid(axis="x", visible=False)


def readable(values: Iterable[float]) -> list[float]:
    """Ticks for a logarithmic axis: these values, without those whose labels would touch the one before."""
    ordered = sorted(set(values))
    apart = (ordered[-1] / ordered[0]) ** 0.13
    ticks: list[float] = []
    for value in ordered:
        if not ticks or value / ticks[-1] >= apart:
            ticks.append(value)
    return ticks


def spread(summary: Summary) -> float:
    """Half the 95 % interval, in points; 0 where there is none."""
    return 0.0 if summary.high is None else summary.high - summary.mean


def error_line(axes: Axes, x: Iterable[float], groups: Sequence[Group], **style: object) -> None:
    """Means of groups, joined, each with its 95 % interval."""
    summaries = [one.accuracy for one in groups]
    axes.errorbar(list(x), [one.mean for one in summaries], [spread(one) for one in summaries], **style)  # type: ignore[arg-type]


def by_size(groups: Iterable[Group]) -> list[Group]:
    """Smallest first."""
    return sorted(groups, key=lambda one: (one.first.parameters, one.first.name))


def direct(result: StudyResult) -> list[Group]:
    """Groups that were taught by a network that nobody taught."""
    return [one for one in group(result.networks) if len(one.first.chain) == 2]


def unique(groups: Iterable[Group]) -> bool:
    """Whether no two groups have the same chain: else they differ in what these axes cannot show."""
    chains = [one.first.chain for one in groups]
    return len(set(chains)) == len(chains)


def kind(network: Network) -> str:
    """How a network was made, in words: the legend's entries."""
    if len(network.chain) == 1:
        return "alone"
    return f"{network.method}, {'direct' if len(network.chain) == 2 else 'via assistants'}"


def looks(kinds: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker for each kind; alone is always grey."""
    taught = [one for one in dict.fromkeys(kinds) if one != "alone"]
    given = {one: (SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)]) for i, one in enumerate(taught)}
    return {"alone": (GREY, "o"), **given}
