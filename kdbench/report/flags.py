"""What a reader must know beside the numbers, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from kdbench.report.console import count_text
from kdbench.report.results import Arm, Network

SELECTED_ON_TEST = "weights selected on the test set: these accuracies are optimistic"


def find_flags(networks: Sequence[Network], arms: Sequence[Arm]) -> tuple[str, ...]:
    """Selection on the test set, mixed protocols or datasets, unequal budgets, one teacher, few or unequal seeds.

    Args:
        networks: All that were collected: the cost of a chain includes its teachers.
        arms: Those that will be compared.
    """
    finals = [network for arm in arms for network in arm.networks]
    known = {network.digest: network for network in networks}
    flags = [SELECTED_ON_TEST] if any(network.select_on == "test" for network in finals) else []
    flags += _mixed("protocols", (network.protocol for network in finals))
    flags += _mixed("datasets", (network.dataset for network in finals))
    flags += _unequal("epochs of the final network", finals, lambda network: network.epochs)
    flags += _unequal("training images, whole chain", finals, lambda network: chain_cost(network, known, "images"))
    flags += _unequal("extra parameters in training", finals, lambda network: network.extra_parameters)
    seeds = {arm.name: {network.seed for network in arm.networks} for arm in arms}
    if len({frozenset(numbers) for numbers in seeds.values()}) > 1:
        flags.append("the arms do not share their seeds: differences between them are not paired")
    if any(_one_teacher(arm) for arm in arms):
        flags.append("students of all seeds have the same teacher: the spread is theirs alone")
    if any(len(numbers) == 1 for numbers in seeds.values()):
        flags.append("a single seed has no spread: nothing can be said about its noise")
    return tuple(flags)


def chain_cost(network: Network, known: Mapping[str, Network], what: str) -> float:
    """A budget summed over a network and those above it, as far as they are known; ``what`` is its attribute."""
    total, current = 0, network
    while True:
        total += getattr(current, what)
        if (above := known.get(current.teacher_digest or "")) is None:
            return total
        current = above


def _one_teacher(arm: Arm) -> bool:
    teachers = {network.teacher_digest for network in arm.networks}
    return len(arm.networks) > 1 and len(teachers) == 1 and None not in teachers


def _mixed(what: str, values: Iterable[str]) -> list[str]:
    distinct = list(dict.fromkeys(values))
    return [f"different {what} side by side: {'; '.join(distinct)}"] if len(distinct) > 1 else []


def _unequal(what: str, networks: Sequence[Network], cost: Callable[[Network], float]) -> list[str]:
    costs = sorted({cost(network) for network in networks})
    return [f"unequal budgets: {what} {count_text(costs[0])} to {count_text(costs[-1])}"] if len(costs) > 1 else []
