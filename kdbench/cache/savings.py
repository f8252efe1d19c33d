"""What a cache of teachers' outputs spares, in closed form. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from kdbench.cache.identity import has_views, teaching, training_pass
from kdbench.config.budget import image_counts
from kdbench.core.recipe import Recipe, digest_of
from kdbench.data.catalog import describe, steps_per_epoch

VECTORS = ("pooled", "logits")  # taps of which it is known, without building the network, that they can be kept


class Savings(NamedTuple):
    """What is asked of teachers.

    Attributes:
        without: Samples that they are shown without a cache.
        shown: The same with one.
        bytes: What it occupies, features aside.
        live: Students whose method may read feature maps, which are not kept.
    """

    without: int
    shown: int
    bytes: int
    live: tuple[str, ...]


@dataclass(frozen=True)
class _Demand:
    """What one student asks of one teacher; of two with equal keys the longer asks for all that the other does."""

    key: str
    without: int
    shown: int
    bytes: int


def savings(recipes: Iterable[Recipe]) -> Savings:
    r"""What ``cache=teacher`` would spare, or does.

    Without a cache teachers are shown :math:`\sum_s E_s n_s` samples over all students :math:`s` (epochs, samples per
    epoch); with one :math:`\sum_g N_g V_g` over groups :math:`g` of students that ask the same (samples of the training
    set; views: 1 without augmentation, else the epochs of the longest student, or those that are cycled through).

    Args:
        recipes: What is to be trained.
    """
    students = [recipe for recipe in recipes if recipe.epochs and recipe.teachers]
    demands = [demand for recipe in students if _keepable(recipe) for demand in _demands(recipe)]
    groups = {demand.key: demand for demand in sorted(demands, key=lambda demand: demand.shown)}.values()
    return Savings(
        without=sum(demand.without for demand in demands),
        shown=sum(demand.shown for demand in groups),
        bytes=sum(demand.bytes for demand in groups),
        live=tuple(dict.fromkeys(recipe.name for recipe in students if not _keepable(recipe))),
    )


def _keepable(recipe: Recipe) -> bool:
    taps = (recipe.method or {"taps": {}})["taps"].values()
    return all(name in VECTORS for both in taps for name in both["teacher"])


def _asking(recipe: Recipe) -> int:
    """Epochs of the phases in which a term beside the task loss counts: in others no teacher is asked."""
    method = recipe.method or {"weights": {}}
    weights = [phase["weights"] for phase in method.get("phases", {}).values()]
    phases = zip(recipe.phase_epochs, [*weights, method["weights"]], strict=True)
    return sum(epochs for epochs, terms in phases if terms.keys() - {"task"})


def _demands(recipe: Recipe) -> Iterator[_Demand]:
    budget, how = recipe.budget, teaching(recipe)
    spec = describe(recipe.data)
    size, asked = image_counts(recipe)
    steps = steps_per_epoch(size, budget["batch_size"], budget["limit_train_batches"])
    asking = _asking(recipe)
    without = asking * min(steps * budget["batch_size"], size) * asked // size
    shown = asked * (how.get("views", asking) if has_views(recipe) else min(asking, 1))
    width = 4 if how.get("precision", budget["precision"]) == "32-true" and how.get("dtype") != "float16" else 2
    kept = how.get("top_k")
    row = spec.num_classes * width if kept is None else kept * (width + 2) + width  # a class takes two bytes
    for teacher in recipe.teachers:
        key = digest_of(training_pass(recipe, teacher.digest, None).facts({}))
        yield _Demand(key, without, shown, shown * row)
