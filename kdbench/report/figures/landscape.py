"""The loss around the weights of each arm."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from kdbench.report.figures._style import BLUE, INK, Drawing
from kdbench.report.results import Arm, StudyResult
from kdbench.report.words import arrows

_SHOWN = 6  # panels that can be compared by eye


def draw_landscape(result: StudyResult) -> Drawing | None:
    """Contours of ``eval=[landscape]``, one panel per arm, all at the same levels; of each arm's first seed."""
    arms = [arm for arm in result.arms if _measured(arm)][:_SHOWN]
    if not arms:
        return None
    surfaces = [_rise(arm) for arm in arms]
    columns = min(len(arms), 2)
    figure = Figure(figsize=(2.4 * columns, 2.6 * math.ceil(len(arms) / columns)))
    panels = figure.subplots(math.ceil(len(arms) / columns), columns, squeeze=False, sharex=True, sharey=True)
    all_axes = list(panels.flat)
    levels = np.geomspace(0.05, max(0.1, *(np.nanmax(surface) for surface in surfaces)), 9)
    for axes, arm, surface in zip(all_axes, arms, surfaces, strict=False):
        places = arm.networks[0].evals["landscape"]["places"]
        lines = axes.contour(places, places, surface, levels=levels, colors=BLUE, linewidths=1.0)
        axes.clabel(lines, fontsize=8.5, fmt="%.2g")
        axes.plot([0], [0], marker="+", color=INK)
        axes.set_title(arrows(arm.label), fontsize=8.5)
        axes.set_aspect("equal")
        axes.grid(visible=False)
    for axes in all_axes[len(arms) :]:
        axes.set_visible(False)
    return Drawing(figure, "Loss around the weights",
                   "Rise of the test loss above that of the trained network (+), in nats, along two random directions "
                   f"in norms of the filters; seed {arms[0].networks[0].seed} of each arm, equal levels.")  # fmt: skip


def _measured(arm: Arm) -> bool:
    found = arm.networks[0].evals.get("landscape")
    return found is not None and found["loss"] is not None


def _rise(arm: Arm) -> np.ndarray:
    found = arm.networks[0].evals["landscape"]
    return np.array(found["surface"], dtype=float) - found["loss"]
