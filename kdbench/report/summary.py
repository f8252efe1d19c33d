"""Replicates in short: mean, standard deviation, interval, and groups of replicates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kdbench.report.results import Network, StudyResult, Summary

_FAR = 1000.0  # beyond the 97.5 % point of Student's t for every number of degrees of freedom


def within(t: float, df: int) -> float:
    r"""Probability that Student's t lies between -t and t: a finite sum in :math:`\theta = \arctan(t / \sqrt{df})`.

    Args:
        t: At least 0.
        df: Degrees of freedom, at least 1.

    Source: Abramowitz & Stegun, 26.7.3 and 26.7.4.
    """
    theta = math.atan(t / math.sqrt(df))
    odd = df % 2
    term = math.cos(theta) if odd else 1.0
    total = 0.0
    for k in range(1 + odd, df, 2):  # k = 2, 4, ... (odd df) or 1, 3, ... (even df)
        total += term
        term *= math.cos(theta) ** 2 * k / (k + 1)
    inner = math.sin(theta) * total
    return 2 / math.pi * (theta + inner) if odd else inner


def student_t(df: int) -> float:
    """The 97.5 % point of Student's t distribution, which makes 95 % intervals; by bisection of :func:`within`."""
    low, high = 0.0, _FAR
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, df) < 0.95 else (low, middle)
    return high


def paired_p_value(differences: Sequence[float]) -> float | None:
    """Two-sided p value of the paired t test: of differences as large as these, were there none.

    Assumes that the differences over seeds are about normal.

    Args:
        differences: Of two arms, seed by seed.

    Returns:
        In [0, 1]; ``None`` for fewer than two seeds. Differences that are all the same have 0, or 1 if they are 0.
    """
    if len(differences) < 2:
        return None
    mean, sd = statistics.fmean(differences), statistics.stdev(differences)
    if sd == 0:
        return float(mean == 0)
    return 1 - within(abs(mean) / (sd / math.sqrt(len(differences))), len(differences) - 1)


def summarise(values: Sequence[float]) -> Summary:
    """Mean, sample standard deviation and the 95 % interval of the mean; one value alone has neither."""
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        return Summary(mean, None, 1, None, None)
    sd = statistics.stdev(values)
    half = student_t(n - 1) * sd / math.sqrt(n)
    return Summary(mean, sd, n, mean - half, mean + half)


class Group(NamedTuple):
    """Replicates: networks that differ in their seeds only."""

    networks: tuple[Network, ...]

    @property
    def first(self) -> Network:
        """One of them, for what they have in common."""
        return self.networks[0]

    @property
    def accuracy(self) -> Summary:
        """Of the selected weights on the test set."""
        return summarise([network.test_acc for network in self.networks])

    @property
    def selection_accuracy(self) -> float:
        """What may choose between groups: the mean on validation, or on the test set where nothing was held out."""
        values = [network.val_acc for network in self.networks if network.val_acc is not None]
        return statistics.fmean(values) if len(values) == len(self.networks) else self.accuracy.mean


def group(networks: Iterable[Network]) -> list[Group]:
    """Networks by variant, in the order in which the variants first appear."""
    found: dict[str, list[Network]] = {}
    for network in networks:
        found.setdefault(network.variant, []).append(network)
    return [Group(tuple(replicates)) for replicates in found.values()]


def scratch(result: StudyResult, network: Network) -> Group | None:
    """The same architecture trained alone, on the same data with the same budget; ``None`` unless there is one such."""
    found = group(
        other for other in result.networks
        if other.chain == (network.name,) and _conditions(other) == _conditions(network)
    )  # fmt: skip
    return found[0] if len(found) == 1 else None


def _conditions(network: Network) -> tuple[object, ...]:
    return network.dataset, network.protocol, network.epochs, network.images
