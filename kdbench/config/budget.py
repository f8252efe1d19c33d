"""The keys of ``budget``: what is wrong with them, how a recipe has them, which methods cannot keep to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kdbench.core.errors import nearest
from kdbench.core.recipe import Recipe
from kdbench.data.catalog import describe
from kdbench.data.view_options import mixes_of

if TYPE_CHECKING:
    from kdbench.criteria.base import Criterion

UNQUERIED = ("drop", "label")


def budget_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a job's budget, one line each."""
    count, unqueried = config["budget"]["teacher_queries"], config["budget"]["unqueried"]
    if count is not None and count < 2:
        yield f"budget.teacher_queries={count}: must be at least 2, or null to ask about every image"
    if unqueried not in UNQUERIED:
        yield f"budget.unqueried={unqueried}: unknown{nearest(str(unqueried), UNQUERIED)}"


def budget_of(hop: Mapping[str, Any]) -> dict[str, Any]:
    """The budget as a recipe has it, nothing without a limit."""
    return dict(hop["budget"]) if hop["budget"]["teacher_queries"] is not None else {}


def budget_note(recipe: Recipe) -> Iterator[str]:
    """What a reader of the plan should know."""
    if budget := (recipe.method or {}).get("budget"):
        others = {"drop": "are left out", "label": "are trained on by their labels alone"}[budget["unqueried"]]
        yield (f"budget: {recipe.name}'s teachers are asked about {budget['teacher_queries']} training images, "
               f"the same for every method and seed; the others {others}")  # fmt: skip


def image_counts(recipe: Recipe) -> tuple[int, int]:
    """Images that a recipe's training sees, and those of them that its teachers may be asked about, as planned."""
    size, budget = describe(recipe.data).train_size, (recipe.method or {}).get("budget")
    asked = min(size, budget["teacher_queries"]) if budget else size
    return asked if budget and budget["unqueried"] == "drop" else size, asked


def unsuited(recipe: Recipe, criteria: Mapping[str, Criterion]) -> Iterator[str]:
    """Why a method cannot keep to the recipe's budget, or would make no sense of it, one line each."""
    from kdbench.criteria.base import Teachers  # needs torch, which a plan does not

    method = recipe.method or {}
    if not (budget := method.get("budget")):
        return
    limit = f"budget.teacher_queries={budget['teacher_queries']}"
    for name, criterion in criteria.items():
        if criterion.teachers is Teachers.PEER:
            yield f"{limit}: {name} asks no teacher, so that there is nothing to limit; leave the budget out"
        if criterion.asks_beyond_images:
            yield f"{limit}: {name} asks its teacher about inputs of its own making; choose another method"
    if mixes := mixes_of(recipe.data["augment"]):
        yield f"{limit}: {', '.join(mixes)} asks teachers about mixtures of images; leave it out"
    if budget["unqueried"] != "label":
        return
    if method["weights"].get("task") == 0:
        yield "budget.unqueried=label: method.weights.task=0, so that the other images would teach nothing; use drop"
    if "phases" in method:
        yield "budget.unqueried=label: in the method's first phase the other images would teach nothing; use drop"
