"""All paths from the teacher down: a column for each size, a node for each chain (TAKD, Fig. 5)."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from kdbench.report.console import count_text
from kdbench.report.figures._style import GREEN, GREY, INK, MUTED, PAPER, Drawing, panel
from kdbench.report.queries import path_groups
from kdbench.report.results import StudyResult
from kdbench.report.summary import Group, group, scratch

Chain = tuple[str, ...]
_COLUMN, _ROW = 1.15, 0.42  # inches


def layout(chains: Sequence[Chain], columns: Sequence[str]) -> dict[Chain, tuple[int, float]]:
    """Where each chain's node goes: its column, and a height from 0 (top) to 1; one column's nodes evenly apart.

    Args:
        chains: Every chain, the teacher's own included.
        columns: Names in order, the teacher first.
    """
    places: dict[Chain, tuple[int, float]] = {}
    order = {name: index for index, name in enumerate(columns)}
    for column, name in enumerate(columns):
        nodes = sorted((chain for chain in chains if chain[-1] == name), key=lambda chain: [order[n] for n in chain])
        for row, chain in enumerate(nodes):
            places[chain] = (column, (row + 0.5) / len(nodes))
    return places


def draw_paths(result: StudyResult) -> Drawing | None:
    """Needs several chains to one size."""
    groups = path_groups(result)
    if not groups:
        return None
    root = groups[0].first.chain[0]
    taught = {one.first.chain: one for one in groups}
    teachers = [one for one in group(result.networks) if one.first.chain == (root,)]
    sizes = {one.first.name: one.first.parameters for one in groups}
    columns = [root, *sorted(sizes, key=lambda name: -sizes[name])]
    places = layout([(root,), *taught], columns)
    rows = max(sum(chain[-1] == name for chain in taught) for name in columns[1:])
    figure, axes = panel(max(4.8, _COLUMN * len(columns)), _ROW * (rows + 3))
    bottom = 1 + 1.3 / rows
    for chain, (column, height) in places.items():
        if chain[:-1] in places:
            colour = GREEN if len(chain) == 2 else MUTED
            _edge(axes, places[chain[:-1]], (column, height), colour, 1.6 if len(chain) == 2 else 0.9)
        one = taught.get(chain) or (teachers[0] if len(teachers) == 1 else None)
        _node(axes, column, height, one, GREEN if len(chain) == 2 else INK)
    for column, name in enumerate(columns[1:], 1):
        example = next(one for one in groups if one.first.name == name)
        _node(axes, column, bottom, scratch(result, example.first), GREY)
    axes.annotate("alone", (0, bottom), ha="center", va="center", color=GREY)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(bottom + 0.6 / rows, -0.02)
    counts = {**sizes, root: teachers[0].first.parameters if teachers else None}
    axes.set_xticks(range(len(columns)), [f"{name}\n{count_text(counts[name])}" for name in columns])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return Drawing(figure, "All paths from the teacher down",
                   f"Test accuracy in percent, means over seeds: a node is a chain from {root}; green was taught by it "
                   "directly; the last row was trained alone.")  # fmt: skip


def _edge(axes: Axes, start: tuple[int, float], end: tuple[int, float], colour: str, width: float) -> None:
    """Bends to the height of its end within one column, so that it passes between the nodes of the others."""
    (x, y), (right, height) = start, end
    path = Path([(x, y), (x + 0.5, y), (x + 0.5, height), (x + 1, height), (right, height)],
                [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4, Path.LINETO])  # fmt: skip
    axes.add_patch(PathPatch(path, facecolor="none", edgecolor=colour, linewidth=width, zorder=1))


def _node(axes: Axes, column: int, height: float, one: Group | None, colour: str) -> None:
    if one is not None:
        box = {"boxstyle": "round,pad=0.25", "facecolor": PAPER, "edgecolor": colour, "linewidth": 0.8}
        axes.annotate(f"{one.accuracy.mean:.2f}", (column, height), ha="center", va="center", color=colour, bbox=box)
