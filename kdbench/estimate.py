"""How long a plan will take, from what the same kind of network took before. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kdbench.core.recipe import Recipe, digest_of
from kdbench.data.catalog import describe
from kdbench.plan import Plan, method_name
from kdbench.report.console import time_text
from kdbench.store import Entry

Kind = tuple[str, str | None, tuple[str, ...], str, str]


@dataclass(frozen=True)
class Estimate:
    """What a plan takes.

    Attributes:
        seconds: Wall time.
        workers: Trainings at a time.
        measured: Networks that it was reckoned from.
        unknown: Networks of the plan that nothing comparable was measured for; they are not in the time.
    """

    seconds: float
    workers: int
    measured: int
    unknown: int

    def __str__(self) -> str:
        """One line for people."""
        text = f"estimated {time_text(self.seconds)} on {self.workers} worker{'s' * (self.workers > 1)}, "
        text += f"from {self.measured} network{'s' * (self.measured > 1)} like these"
        return f"{text}; {self.unknown} unknown" if self.unknown else text


def estimate(plan: Plan, entries: Iterable[Entry], *, workers: int, threads: int) -> Estimate | None:
    r"""Time of what a plan has to train.

    .. math:: \max\Bigl(\tfrac1N \sum_j s_j,\; \max_{\text{chain}} \sum_{j \in \text{chain}} s_j\Bigr), \quad
        s_j = \text{images}_j \cdot \overline{(\text{core seconds} / \text{image})} / \text{threads}

    The mean is over stored networks of the same architecture, method, teachers, shape of data and precision. Threads
    are taken to share the work evenly, so a change of their number makes it rougher.

    Args:
        plan: What is to be made.
        entries: What was measured.
        workers: Trainings at a time, N.
        threads: Of each.

    Returns:
        ``None`` where nothing comparable was measured, or nothing is to be trained.
    """
    waiting = {recipe.digest: kind_of(recipe) for recipe in plan.missing if recipe.epochs}
    speeds: dict[Kind, list[float]] = {kind: [] for kind in waiting.values()}
    for entry in entries:
        if (images := entry.metrics["images"]) and (found := speeds.get(kind_of(entry.recipe))) is not None:
            found.append(entry.metrics["seconds"]["total"] * entry.env.get("threads", 1) / images)
    ends: dict[str, float] = {}
    total = 0.0
    images = _Images()
    for recipe in plan.missing:  # teachers first
        rates = speeds.get(waiting[recipe.digest], []) if recipe.digest in waiting else []
        seconds = images.of(recipe) * sum(rates) / len(rates) / threads if rates else 0.0
        total += seconds
        ends[recipe.digest] = seconds + max((ends.get(teacher.digest, 0.0) for teacher in recipe.teachers), default=0.0)
    if not total:
        return None
    unknown = sum(not speeds[kind] for kind in waiting.values())
    return Estimate(max(total / workers, *ends.values()), workers, sum(map(len, speeds.values())), unknown)


def kind_of(recipe: Recipe) -> Kind:
    """What networks have in common that take equally long for an image."""
    data = recipe.data
    shape = f"{data['channels']}x{data['image_size']}, {data['num_classes']} classes"
    teachers = tuple(teacher.name for teacher in recipe.teachers)
    return digest_of(recipe.network["config"]), method_name(recipe), teachers, shape, str(recipe.budget["precision"])


class _Images:
    """Images that trainings see; equal data are described once."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}

    def of(self, recipe: Recipe) -> int:
        key = digest_of(recipe.data)
        if key not in self._sizes:
            self._sizes[key] = describe(recipe.data).train_size
        limit = recipe.budget["limit_train_batches"]
        size = self._sizes[key]
        return recipe.epochs * (size if limit is None else min(size, limit * recipe.budget["batch_size"]))
