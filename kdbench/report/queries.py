"""Questions about collected results: which assistant, which path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kdbench.core.errors import ConfigError
from kdbench.report.results import StudyResult
from kdbench.report.summary import Group, group


def choose_assistant(accuracies: Mapping[str, float], student: str, teacher: str) -> str:
    """The candidate whose accuracy alone is nearest to the mean of student's and teacher's.

    Args:
        accuracies: Of every network trained alone, student and teacher included; any one scale.
        student: Name of the student.
        teacher: Name of the teacher.

    Returns:
        A name; of two equally near ones, that of the lower accuracy.

    Raises:
        ConfigError: There is no third network.

    Source: Mirzadeh et al. 2020, arXiv:1902.03393, Fig. 4.
    """
    target = (accuracies[student] + accuracies[teacher]) / 2
    candidates = {name: accuracy for name, accuracy in accuracies.items() if name not in (student, teacher)}
    if not candidates:
        raise ConfigError(f"no candidate between {student} and {teacher}; train networks of other sizes alone")
    return min(candidates, key=lambda name: (abs(candidates[name] - target), candidates[name]))


def path_groups(result: StudyResult) -> list[Group]:
    """All networks of one teacher's tree, each chain once; empty unless several of them end in one size.

    Of several teachers or methods, the tree with the most chains is taken. Networks with several teachers stand in no
    tree. A chain that stands for several settings has no one place in it, so then there is none.
    """
    trees: dict[tuple[str, str | None], list[Group]] = {}
    names = {network.name for network in result.networks}
    for one in group(result.networks):
        if len(one.first.chain) > 1 and names.issuperset(one.first.chain):
            trees.setdefault((one.first.chain[0], one.first.method), []).append(one)
    tree = max(trees.values(), key=len, default=[])
    chains = {one.first.chain for one in tree}
    ends = [chain[-1] for chain in chains]
    return tree if len(chains) == len(tree) and len(set(ends)) < len(ends) else []


def best_paths(groups: Iterable[Group], end: str) -> list[tuple[int, Group]]:
    """For each k, the best chain to ``end`` with at most k assistants.

    Chosen by the mean on validation (on the test set only where nothing was held out), so that the test accuracy beside
    it is not a maximum over itself; of equal ones the shorter.

    Args:
        groups: All chains of a tree.
        end: Name of the network at their end.
    """
    ending = [one for one in groups if one.first.chain[-1] == end]
    answers = []
    for k in sorted({len(one.first.chain) - 2 for one in ending}):
        allowed = [one for one in ending if len(one.first.chain) - 2 <= k]
        answers.append((k, max(allowed, key=lambda one: (one.selection_accuracy, -len(one.first.chain)))))
    return answers
