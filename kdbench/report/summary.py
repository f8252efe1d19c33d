"""Replicates in short: mean, standard deviation, interval, and groups of replicates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kdbench.report.results import Network, StudyResult, Summary

_FAR = 1000.0  # beyond the 97.5 % point of Student's t for every number of degrees of freedom


def student_t(df: int) -> float:
    r"""The 97.5 % point of Student's t distribution, which makes 95 % intervals.

    The probability between -t and t is a finite sum in :math:`\theta = \arctan(t / \sqrt{df})`, inverted by bisection.

    Args:
        df: Degrees of freedom, at least 1.

    Source: Abramowitz & Stegun, 26.7.3 and 26.7.4.
    """

    def within(t: float) -> float:
        theta = math.atan(t / math.sqrt(df))
        odd = df % 2
        term = math.cos(theta) if odd else 1.0
        total = 0.0
        for k in range(1 + odd, df, 2):  # k = 2, 4, ... (odd df) or 1, 3, ... (even df)
            total += term
            term *= math.cos(theta) ** 2 * k / (k + 1)
        inner = math.sin(theta) * total
        return 2 / math.pi * (theta + inner) if odd else inner

    low, high = 0.0, _FAR
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < 0.95 else (low, middle)
    return high


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
