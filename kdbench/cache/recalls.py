"""Which teachers of a training answer from a cache, and from which."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kdbench.cache.identity import teaching, training_pass, view_of
from kdbench.cache.teacher import CachedTeacher, Source, TeacherCache
from kdbench.config.build import UnsuitableError
from kdbench.core.recipe import Recipe
from kdbench.core.taps import expand_taps
from kdbench.core.types import DataSpec
from kdbench.data.loader import TrainLoader
from kdbench.models.network import Network
from kdbench.models.probe import probe


def make_recalls(recipe: Recipe, teachers: Sequence[Network], loader: TrainLoader, spec: DataSpec,
                 cache: TeacherCache, note: Callable[[str], None]) -> tuple[CachedTeacher | None, ...]:  # fmt: skip
    """For each teacher what answers in its place; ``None`` for one that must be asked live, which is noted.

    Nothing is asked or read yet.

    Raises:
        UnsuitableError: A lossy cache is part of the recipe, and a criterion reads features that are not kept; or one
            compares two views of each sample.
    """
    lossy = [f"cache.{key}={teaching(recipe)[key]}" for key in ("dtype", "top_k") if key in teaching(recipe)]
    if not (cache.on_disk or lossy):
        return (None,) * len(teachers)
    if loader.two_views:
        raise UnsuitableError(f"{recipe.chain()}: its method compares two views, a cache keeps one; take cache=none")
    recalls = []
    for teacher, of in zip(teachers, recipe.teachers, strict=True):
        taps = _taps(recipe, teacher)
        shapes = probe(teacher, taps, spec).shapes
        if maps := [tap for tap in taps if len(shapes[tap]) != 1]:
            reason = f"the method reads {', '.join(maps)} of {teacher.name}, which are feature maps and are not kept"
            if lossy:
                raise UnsuitableError(f"{recipe.chain()}: {' '.join(lossy)}: {reason}; leave it out")
            note(f"cache=teacher: {reason}; this teacher is asked at every step")
            recalls.append(None)
            continue
        recalls.append(_recall(recipe, teacher, of.digest, taps, loader, spec, cache, note))
    return tuple(recalls)


def _taps(recipe: Recipe, teacher: Network) -> tuple[str, ...]:
    taps = (recipe.method or {"taps": {}})["taps"]
    names = [name for criterion in taps for name in expand_taps(teacher, taps[criterion]["teacher"])]
    return tuple(sorted(set(names)))


def _recall(recipe: Recipe, teacher: Network, digest: str, taps: Sequence[str], loader: TrainLoader,
            spec: DataSpec, cache: TeacherCache, note: Callable[[str], None]) -> CachedTeacher:  # fmt: skip
    assert spec.labels is not None
    places = (spec.labels.to(loader.index.device)[loader.index] >= 0).nonzero().squeeze(1)  # that may be asked about
    return CachedTeacher(
        cache,
        lambda epoch: Source(teacher, len(places), lambda chosen: loader.at(places[chosen], epoch), note),
        lambda epoch: training_pass(recipe, digest, view_of(recipe, epoch), taps),
        loader.index[places],
    )
