"""How the arms' final networks learned: accuracy on validation by epoch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from kdbench.report.figures._style import GRID, SERIES, Drawing, panel
from kdbench.report.results import Network, StudyResult
from kdbench.report.words import arrows

_LINES = ("-", "--", ":")
_SHOWN = len(SERIES) * len(_LINES)  # more lines than that cannot be told apart


def mean_curve(networks: Sequence[Network], key: str) -> tuple[list[float], list[float]]:
    """Epochs, and the mean over those replicates that logged ``key`` there."""
    logged: dict[float, list[float]] = {}
    for network in networks:
        for row in network.history:
            if key in row:
                logged.setdefault(row["epoch"], []).append(row[key])
    epochs = sorted(logged)
    return epochs, [statistics.fmean(logged[epoch]) for epoch in epochs]


def draw_curves(result: StudyResult) -> Drawing | None:
    """Needs two epochs of history; training accuracy where nothing was held out."""
    finals = [network for arm in result.arms for network in arm.networks]
    key = "val/acc" if any("val/acc" in row for network in finals for row in network.history) else "train/acc"
    curves = {arm.label: mean_curve(arm.networks, key) for arm in result.arms}
    curves = {label: curve for label, curve in curves.items() if len(curve[0]) > 1}
    if not curves:
        return None
    figure, axes = panel(4.8, 3.4 + 0.17 * min(len(curves), _SHOWN))
    for index, (label, (epochs, values)) in enumerate(curves.items()):
        if index < _SHOWN:
            axes.plot(epochs, values, color=SERIES[index % len(SERIES)], linestyle=_LINES[index // len(SERIES)],
                      label=arrows(label))  # fmt: skip
        else:
            axes.plot(epochs, values, color=GRID, zorder=1)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{'validation' if key == 'val/acc' else 'training'} accuracy, %")
    figure.legend(loc="outside lower center", ncols=1)
    rest = f" Grey: {len(curves) - _SHOWN} more arms." if len(curves) > _SHOWN else ""
    return Drawing(figure, "Learning curves", f"Means over seeds of each arm's final network, by epoch.{rest}")
