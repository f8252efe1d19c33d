"""Distillation scores of collected networks, against the first network of their chain and against their parent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kdbench.metrics.distillation_score import distillation_score
from kdbench.report.results import StudyResult
from kdbench.report.summary import Group, group
from kdbench.report.words import arrows


class Scored(NamedTuple):
    """Replicates beside their teacher: sizes and accuracies relative to it.

    Attributes:
        group: The replicates.
        teacher: Variant of the network they are scored against.
        size: Parameters over the teacher's.
        accuracy: Mean test accuracy over the teacher's.
        label: Of the arm they are, else their chain.
    """

    group: Group
    teacher: str
    size: float
    accuracy: float
    label: str

    def score(self, alpha: float) -> float:
        """The distillation score; lower is better."""
        return distillation_score(self.size, 1.0, self.accuracy, 1.0, alpha=alpha)


def against_root(result: StudyResult) -> list[Scored]:
    """Every taught group beside the first network of its chain."""
    return _scored(result, root=True)


def against_parent(result: StudyResult) -> list[Scored]:
    """Every taught group beside the network that taught it."""
    return _scored(result, root=False)


def one_family(scored: Iterable[Scored]) -> list[Scored]:
    """The students of one teacher, the most numerous: only their scores can be compared."""
    families: dict[str, list[Scored]] = {}
    for one in scored:
        families.setdefault(one.teacher, []).append(one)
    return max(families.values(), key=len, default=[])


def _scored(result: StudyResult, *, root: bool) -> list[Scored]:
    groups = {one.first.variant: one for one in group(result.networks)}
    known = {network.digest: network for network in result.networks}
    labels = {network.variant: arm.label for arm in result.arms for network in arm.networks}
    scored = []
    for one in groups.values():
        teacher = result.root(one.first) if root else known.get(one.first.teacher_digest or "")
        if teacher is not None and (accuracy := groups[teacher.variant].accuracy.mean) > 0:
            size = one.first.parameters / teacher.parameters
            label = arrows(labels.get(one.first.variant, " -> ".join(one.first.chain)))
            scored.append(Scored(one, teacher.variant, size, one.accuracy.mean / accuracy, label))
    return scored
