"""Measures trained networks further: what ``eval=[...]`` asks for after a run, and ``kdbench eval``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdbench.config.build import make_evaluations
from kdbench.core.errors import ConfigError, Problems, Stopped
from kdbench.core.recipe import Recipe, digest_of
from kdbench.core.signals import raise_if_stopped
from kdbench.core.types import Batch
from kdbench.data.load import DataSplits, ImageSplit
from kdbench.data.loader import EvalLoader
from kdbench.runner import builder_of, check_all, device_of, without_seeds
from kdbench.samples import read_samples
from kdbench.settings import Settings, cores, threads_of
from kdbench.store import Entry
from kdbench.sweep import Outcome, describe_failure

Say = Callable[[str], None]  # shows one line


class _Watched:
    """A loader that ends the run between two batches if a signal asked for it."""

    def __init__(self, loader: Iterable[Batch]) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            raise_if_stopped()
            yield batch


class Measurer:
    """Makes evaluations of networks in this process, and keeps their results beside the store.

    Args:
        settings: Where things are and what is to be measured.

    Raises:
        ConfigError: An evaluation cannot be built, or there is no such device.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made = make_evaluations(settings.evaluations)
        self._builder = builder_of(settings)
        self._device = device_of(settings)
        torch.set_num_threads(settings.threads)

    def problems(self, recipe: Recipe) -> dict[str, tuple[str, ...]]:
        """Why evaluations cannot be made of a network, trained or not, by name; those that can are left out.

        Raises:
            ConfigError: The network or its data cannot be built.
        """
        data = self._builder.data(recipe)
        network, *teachers = map(self._builder.shell, (recipe, *self._builder.teachers_of(recipe)))
        found = {}
        for name, evaluation in self._made.items():
            try:
                self._others(name, data)
                evaluation.check(network, teachers, data.spec)
            except ConfigError as error:
                found[name] = error.problems
        return found

    def measure(self, entry: Entry, name: str, *, split: str = "test") -> dict[str, Any]:
        """One evaluation of a stored network; the record that is kept of it.

        Raises:
            ConfigError: The network was trained without such a split.
            StoreError: It or a teacher of it is damaged, or nothing can be written.
            Stopped: A signal asked for it.
        """
        data = self._builder.data(entry.recipe)
        if (samples := data.val if split == "val" else data.test) is None:
            raise ConfigError(f"{entry.id} was trained without a validation split; use --split test")
        networks = [
            self._builder.trained(recipe.digest) for recipe in (entry.recipe, *self._builder.teachers_of(entry.recipe))
        ]
        network, *teachers = [each.to(self._device) for each in networks]
        evaluation = self._made[name]
        others = map(self._load, self._others(name, data))
        result = evaluation(network, self._load(samples), teachers, data.spec, *others)
        record = {"evaluation": name, "split": split, "options": self._settings.evaluations[name],
                  "headline": evaluation.headline, "result": result}  # fmt: skip
        self._settings.store.add_eval(entry.digest, record)
        return record

    def _others(self, name: str, data: DataSplits) -> list[ImageSplit]:
        read = partial(read_samples, own=data, data_dir=self._settings.data_dir, where=f"eval.{name}.dataset")
        return [read(wanted) for wanted in self._made[name].also_reads]

    def _load(self, samples: ImageSplit) -> _Watched:
        settings = self._settings
        loader = EvalLoader(samples, settings.eval_batch_size, device=self._device, workers=settings.loader_workers)
        return _Watched(loader)


def check_plan(missing: Sequence[Recipe], finals: Sequence[Recipe],
               settings: Settings) -> tuple[list[str], dict[str, str]]:  # fmt: skip
    """:func:`kdbench.runner.check_all`, and whether the evaluations can be made.

    An evaluation that suits none of the final networks is a problem; one that suits some is made of those.

    Args:
        missing: What is to be trained.
        finals: The last network of every job.
        settings: Where things are and what is to be measured.
    """
    lines, unsuitable = check_all(missing, settings)
    problems = Problems()
    problems.add(*lines)
    with problems.catching():
        problems.add(*_unmeasurable(finals, settings))
    return problems.lines, unsuitable


def _unmeasurable(finals: Sequence[Recipe], settings: Settings) -> list[str]:
    if not settings.evaluations:
        return []
    measurer = Measurer(settings)
    unlike = {digest_of(without_seeds(recipe)): recipe for recipe in finals}
    found = [measurer.problems(recipe) for recipe in unlike.values()]
    return [line for name in settings.evaluations if all(name in each for each in found)
            for each in found for line in each[name]]  # fmt: skip


def measure_here(recipes: Iterable[Recipe], settings: Settings, say: Say) -> dict[str, Outcome]:
    """Makes every evaluation that is missing of these stored networks, one after the other.

    Args:
        recipes: Of the networks.
        settings: Where things are and what is to be measured.
        say: Told what was measured, and what cannot be measured of which network.

    Returns:
        The failures, by evaluation and network.

    Raises:
        Stopped: A signal asked for it; what was measured is kept.
    """
    measurer = Measurer(settings)
    failures: dict[str, Outcome] = {}
    for recipe in recipes:
        raise_if_stopped()
        try:
            _complete(measurer, recipe, settings, say, failures)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 (recorded with its traceback; the others go on)
            failures[f"eval-{recipe.name}-{recipe.digest[:8]}"] = describe_failure(error)
    return failures


def _complete(measurer: Measurer, recipe: Recipe, settings: Settings, say: Say, failures: dict[str, Outcome]) -> None:
    entry = settings.store.get(recipe.digest)
    assert entry is not None
    known, unsuitable = settings.store.find_evals(recipe.digest, settings.evaluations), measurer.problems(recipe)
    for name in settings.evaluations:
        what, started = f"{name} of {recipe.name} (seed {recipe.seed}, {entry.id})", time.perf_counter()
        if name in known:
            continue
        if name in unsuitable:
            say(f"note: no {what}: {unsuitable[name][0]}")
            continue
        try:
            measurer.measure(entry, name)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 (recorded with its traceback; the others go on)
            failures[f"{name}-{recipe.name}-{entry.id}"] = failure = describe_failure(error)
            say(f"failed  {what}: {failure.reason}")
        else:
            say(f"measured  {what}  in {time.perf_counter() - started:.1f}s")


def evaluate_entry(entry: Entry, evaluations: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any], *,
                   split: str) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Further measurements of a stored network, whatever was measured before; their records, each once it is kept.

    Args:
        entry: What to measure.
        evaluations: Options of each evaluation by its name.
        config: A job's config, for paths and devices.
        split: ``val`` or ``test``.

    Raises:
        ConfigError: An evaluation cannot be built or made of this network, or there is no such split or dataset.
    """
    measurer = Measurer(Settings(
        outputs=Path(config["paths"]["outputs"]).expanduser(),
        data_dir=Path(config["paths"]["data"]).expanduser(),
        run_dir=Path(),
        roots={entry.recipe.data["name"]: config["dataset"]["root"]},
        accelerator=config["trainer"]["accelerator"],
        threads=config["trainer"]["threads"] or threads_of(cores()),
        trusted=tuple(config["trust"]),
        eval_batch_size=config["trainer"]["eval_batch_size"],
        loader_workers=config["trainer"]["loader_workers"] or 0,
        evaluations=evaluations,
    ))  # fmt: skip
    problems = Problems()
    for lines in measurer.problems(entry.recipe).values():
        problems.add(*lines)
    problems.check()
    for name in evaluations:
        yield measurer.measure(entry, name, split=split)
