"""A recipe is everything that determines trained weights; its digest is their name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

FORMAT = 1  # bump when the meaning of a recipe changes: every digest changes with it


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, shortest numbers (1.0 is 1), no NaN, no spaces."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _plain(value: Any) -> Any:
    if type(value) in (str, int, bool):  # most of what there is; a sweep of thousands of jobs comes by here
        return value
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``, 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Recipe:
    """How one network is made, recursively with its teachers (a Merkle tree: shared parts have one digest).

    Attributes:
        network: Name, ``_target_`` and arguments of the network, where its weights start, what of it is trained.
        data: Dataset, version, split, corruption and views.
        method: Criteria, weights and taps; ``phases`` where there are any; ``teaching`` where teachers do not answer
            exactly and in the student's precision; ``budget`` where they may not be asked about every image; ``None``
            for the task loss alone.
        optim: Optimiser and schedule; ``None`` for a network that is used as it is.
        budget: Epochs, global batch, precision, layout, clipping, EMA: what else changes the weights.
        select_on: Which weights teach, are tested and exported: ``last``, ``val`` (best on validation) or ``test``.
        seed: Drives initialisation, order, views and every other draw.
        teachers: Recipes of the networks that teach this one; empty when trained from scratch.
    """

    network: Mapping[str, Any]
    data: Mapping[str, Any]
    method: Mapping[str, Any] | None
    optim: Mapping[str, Any] | None
    budget: Mapping[str, Any]
    select_on: str
    seed: int
    teachers: tuple[Recipe, ...] = ()

    @property
    def name(self) -> str:
        """The network's name, e.g. ``resnet20``."""
        return str(self.network["name"])

    @property
    def phase_epochs(self) -> tuple[int, ...]:
        """Epochs of each phase, the last being the training proper."""
        before = (self.method or {}).get("phases", {})
        return *(int(phase["epochs"]) for phase in before.values()), int(self.budget["max_epochs"])

    @property
    def epochs(self) -> int:
        """Epochs to train in all; 0 for a network that is used as it is."""
        return sum(self.phase_epochs)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything above, with each teacher standing as its own digest."""
        own = {key: value for key, value in self._fields().items() if key != "teachers"}
        return digest_of({**own, "teachers": [teacher.digest for teacher in self.teachers]})

    def untaught(self) -> tuple[Recipe, Recipe]:
        """The same training without teachers: as it is, and without clipping, which may have been the method's own."""
        plain = replace(self, method=None, teachers=())
        return plain, replace(plain, budget={**plain.budget, "clip": None})

    def _fields(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "network": dict(self.network),
            "data": dict(self.data),
            "method": None if self.method is None else dict(self.method),
            "optim": None if self.optim is None else dict(self.optim),
            "budget": dict(self.budget),
            "select_on": self.select_on,
            "seed": self.seed,
            "teachers": self.teachers,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form, teachers nested."""
        return {**self._fields(), "teachers": [teacher.to_dict() for teacher in self.teachers]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Recipe:
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: The form is of another version of kdbench.
        """
        fields = dict(plain)
        if (found := fields.pop("format", None)) != FORMAT:
            raise ValueError(f"recipe of format {found}, this kdbench reads format {FORMAT}")
        teachers = tuple(cls.from_dict(teacher) for teacher in fields.pop("teachers"))
        return cls(**fields, teachers=teachers)

    def chain(self) -> str:
        """The path that made it, in words: ``plain6 -> plain4 -> plain2``."""
        if not self.teachers:
            return self.name
        nearest = self.teachers[-1]
        copies = sum(teacher.name == nearest.name for teacher in self.teachers)
        others = "" if copies == len(self.teachers) else " (and those above)"
        return f"{f'{copies} x ' if copies > 1 else ''}{nearest.chain()}{others} -> {self.name}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def topological(recipes: Iterable[Recipe]) -> Iterator[Recipe]:
    """Every unique recipe below ``recipes``, teachers before those they teach."""
    seen: set[str] = set()

    def visit(recipe: Recipe) -> Iterator[Recipe]:
        if recipe.digest in seen:
            return
        for teacher in recipe.teachers:
            yield from visit(teacher)
        if recipe.digest not in seen:
            seen.add(recipe.digest)
            yield recipe

    for recipe in recipes:
        yield from visit(recipe)
