"""What a teacher's outputs are known by: all that determines their bits. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kdbench.core.recipe import Recipe, digest_of

FORMAT = 1  # bump when rows are kept in another form: what was kept before is asked for again
VIEW_KEYS = ("augment", "view_seed")  # of a dataset: without views they say nothing about pixels


@dataclass(frozen=True)
class Pass:
    """One pass of a teacher over all samples of a split, in the order of their index.

    Attributes:
        teacher: Its digest.
        split: ``train``, ``val`` or ``test``.
        data: What determines the pixels of the split.
        view: The epoch whose views are shown; ``None`` for images as they are.
        precision: Of the forward pass.
        layout: Memory format of the images.
        batch_size: Samples at a time; kernels may sum in another order at another size.
        taps: Features that are kept beside the logits.
        dtype: ``float32`` keeps what the teacher gave, ``float16`` rounds it.
        top_k: Logits that are kept of each sample; ``None`` for all.
        folded: Of evaluations: BatchNorms of the teacher that are parts of convolutions. In trainings ``taps`` say so.
    """

    teacher: str
    split: str
    data: Mapping[str, Any]
    view: int | None
    precision: str
    layout: str
    batch_size: int
    taps: tuple[str, ...] = ()
    dtype: str = "float32"
    top_k: int | None = None
    folded: tuple[str, ...] = ()

    def facts(self, conditions: Mapping[str, Any]) -> dict[str, Any]:
        """Everything above with what bit identity holds under: threads, libraries, device."""
        return {"format": FORMAT, **asdict(self), "conditions": dict(conditions)}

    def name(self, conditions: Mapping[str, Any]) -> str:
        """Of the pass among those of its teacher, e.g. ``train-view3-0a1b2c3d4e5f``."""
        view = "" if self.view is None else f"-view{self.view}"
        return f"{self.split}{view}-{digest_of(self.facts(conditions))[:12]}"


def teaching(recipe: Recipe) -> Mapping[str, Any]:
    """How the recipe's teachers answer, where that is not exactly and in the student's precision."""
    return (recipe.method or {}).get("teaching", {})


def has_views(recipe: Recipe) -> bool:
    """Whether training images differ from epoch to epoch."""
    return "none" not in recipe.data["augment"]


def view_of(recipe: Recipe, epoch: int) -> int | None:
    """The epoch whose views are shown in ``epoch``: itself, unless views are cycled through; ``None`` without any."""
    if not has_views(recipe):
        return None
    cycle = teaching(recipe).get("views")
    return epoch if cycle is None else epoch % cycle


def training_pass(recipe: Recipe, teacher: str, view: int | None, taps: Sequence[str] = ()) -> Pass:
    """What a student's teacher is asked in one epoch of its training."""
    kept = teaching(recipe)
    data = _pixels(recipe)
    if budget := (recipe.method or {}).get("budget"):
        data["teacher_queries"] = budget["teacher_queries"]
    if has_views(recipe):
        own = recipe.data["view_seed"]
        data |= {key: recipe.data[key] for key in VIEW_KEYS} | {"view_seed": recipe.seed if own is None else own}
    return Pass(
        teacher, "train", data, view, kept.get("precision", recipe.budget["precision"]), recipe.budget["layout"],
        recipe.budget["batch_size"], tuple(taps), kept.get("dtype", "float32"), kept.get("top_k"),
    )  # fmt: skip


def evaluation_pass(recipe: Recipe, teacher: str, split: str, batch_size: int,
                    folded: tuple[str, ...]) -> Pass:  # fmt: skip
    """What a student's teacher is asked when the student is measured: always exact, in the student's precision."""
    budget = recipe.budget
    return Pass(teacher, split, _pixels(recipe), None, budget["precision"], budget["layout"], batch_size,
                folded=folded)  # fmt: skip


def _pixels(recipe: Recipe) -> dict[str, Any]:
    return {key: value for key, value in recipe.data.items() if key not in VIEW_KEYS}
