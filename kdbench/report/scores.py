"""Distillation scores of collected networks, against the first network of their chain and against their parent."""

from __future__ import annotations

from typing import NamedTuple

from kdbench.metrics.distillation_score import distillation_score
from kdbench.report.results import StudyResult
from kdbench.report.summary import Group, group


class Scored(NamedTuple):
    """Replicates beside their teacher: sizes and accuracies relative to it.

    Attributes:
        group: The replicates.
        size: Parameters over the teacher's.
        accuracy: Mean test accuracy over the teacher's.
    """

    group: Group
    size: float
    accuracy: float

    def score(self, alpha: float) -> float:
        """The distillation score; lower is better."""
        return distillation_score(self.size, 1.0, self.accuracy, 1.0, alpha=alpha)

    @property
    def label(self) -> str:
        """Its chain, as it is read."""
        return " \u2192 ".join(self.group.first.chain)


def against_root(result: StudyResult) -> list[Scored]:
    """Every taught group beside the first network of its chain; one teacher's students only, the most numerous."""
    return _scored(result, root=True)


def against_parent(result: StudyResult) -> list[Scored]:
    """Every taught group beside the network that taught it."""
    return _scored(result, root=False)


def _scored(result: StudyResult, *, root: bool) -> list[Scored]:
    groups = {one.first.variant: one for one in group(result.networks)}
    known = {network.digest: network for network in result.networks}
    families: dict[str, list[Scored]] = {}
    for one in groups.values():
        top = result.root(one.first)
        teacher = top if root else known.get(one.first.teacher_digest or "")
        if top is None or teacher is None or (accuracy := groups[teacher.variant].accuracy.mean) <= 0:
            continue
        scored = Scored(one, one.first.parameters / teacher.parameters, one.accuracy.mean / accuracy)
        families.setdefault(top.variant, []).append(scored)
    return max(families.values(), key=len, default=[])
