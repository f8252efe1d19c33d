"""Makes one network: builds it, trains it, measures it, stores it."""

from __future__ import annotations

import math
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

import kdbench
from kdbench.cache.identity import evaluation_pass, teaching
from kdbench.cache.recalls import make_recalls
from kdbench.cache.teacher import Source, TeacherCache
from kdbench.config.build import LAYOUTS, Builder, UnsuitableError
from kdbench.core.errors import ConfigError, TrainingError, nearest
from kdbench.core.heap import keep_freed_memory
from kdbench.core.precision import autocast_type
from kdbench.core.recipe import Recipe, digest_of
from kdbench.core.signals import raise_if_stopped
from kdbench.data.load import DataSplits, ImageSplit
from kdbench.data.loader import EvalLoader, TrainLoader
from kdbench.data.mixing import make_mixes
from kdbench.data.views import make_views
from kdbench.distiller import Distiller
from kdbench.fit import Loop, Observer, Record, Unheard, fit
from kdbench.kernels import kernel_problems, matmul_precision
from kdbench.launch import ranks_running
from kdbench.metrics.cost import count_macs, count_parameters, latency
from kdbench.metrics.evaluate import evaluate
from kdbench.models.memory_traffic import lighten, set_in_place
from kdbench.models.network import Network
from kdbench.optim import schedule_notes
from kdbench.settings import Settings, cores
from kdbench.store import Draft, Entry
from kdbench.store.cache import OutputCache
from kdbench.strategies import device_problems, strategy_problems

Measure = Callable[[nn.Module], dict[str, float]]  # the numbers of a network on one split


def builder_of(settings: Settings) -> Builder:
    """What builds the networks of a run."""
    return Builder(settings.store, settings.data_dir, roots=settings.roots, in_memory=settings.in_memory,
                   files=settings.files, trusted=settings.trusted, shared=settings.shared)  # fmt: skip


def device_of(settings: Settings, rank: int = 0) -> torch.device:
    """Where one rank of a training runs; rank 0 also measures.

    Raises:
        ConfigError: A GPU is asked for and there is none, or there are fewer devices than are asked for.
    """
    if not settings.elsewhere and (problems := device_problems(settings.devices, settings.workers, cores())):
        raise ConfigError(problems)
    if settings.accelerator not in ("auto", "cpu", "gpu"):
        raise ConfigError(f"trainer.accelerator={settings.accelerator}: unknown"
                          f"{nearest(settings.accelerator, ('auto', 'cpu', 'gpu'))}")  # fmt: skip
    if settings.elsewhere:
        return torch.device("cpu")
    if settings.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator=gpu: no CUDA device is there; use trainer=cpu or trainer=auto")
    if settings.accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", (settings.slot * settings.devices + rank) % torch.cuda.device_count())


class Trainer:
    """Trains recipes one after the other in this process; data and devices are set up once.

    Args:
        settings: Where things are and how they are run.
        rank: Which device of a training on several this is.
    """

    def __init__(self, settings: Settings, rank: int = 0) -> None:
        self.settings = settings
        self.builder = builder_of(settings)
        self.device = device_of(settings, rank)
        torch.set_num_threads(settings.threads)
        keep_freed_memory()
        self._conditions = {"threads": settings.threads, "torch": str(torch.__version__), "device": self.device.type}
        self._cache = TeacherCache(OutputCache(settings.outputs / "cache"), on_disk=settings.cache,
                                   check=settings.cache_check, conditions=self._conditions)  # fmt: skip

    def check(self, recipe: Recipe) -> None:
        """Builds everything that the recipe's training needs, without training.

        Raises:
            ConfigError: Something does not fit; found here instead of hours later.
        """
        data = self.builder.data_taught(recipe)
        student = self.builder.network(recipe, data.spec)
        if not recipe.epochs:
            return
        # what a cluster has is not known here: the most is assumed
        device = torch.device("cuda") if self.settings.elsewhere else self.device
        _check_budget(recipe, device)
        if self.settings.devices > 1 and (recipe.method or {}).get("budget", {}).get("unqueried") == "label":
            raise ConfigError("budget.unqueried=label: only on one device; use budget.unqueried=drop or "
                              "trainer.devices=1")  # fmt: skip
        if problems := strategy_problems(self.settings.strategy, self.settings.devices, device, recipe):
            raise ConfigError(problems)
        teachers = [self.builder.network(teacher, self.builder.data(teacher).spec)
                    if self.settings.store.get(teacher.digest) is None else self.builder.trained(teacher.digest)
                    for teacher in recipe.teachers]  # fmt: skip
        for network in teachers:
            self.builder.check_fit(network, data.spec)
        loader = self._train_loader(recipe, data)
        make_recalls(recipe, teachers, loader, data.spec, self._cache, lambda _: None)
        distiller = self.builder.distiller(recipe, student, teachers, data.spec, len(loader))
        for number in range(len(recipe.phase_epochs)):
            distiller.enter_phase(number)
            if getattr(distiller.configure_optimizers()["optimizer"], "two_gradients", False):
                _check_two_gradients(recipe, self.settings.devices, taught=bool(distiller.teachers))

    def make(self, recipe: Recipe, observer: Observer, *, on_wait: Callable[[str], None] | None = None) -> Entry:
        """The recipe's network from the store, or trained now; what it is taught by must be in the store.

        Args:
            recipe: What to make.
            observer: Told of steps, epochs and notes.
            on_wait: Told who trains the same network, when another process does.

        Raises:
            UserError: Training or storing failed for a reason the user can act on.
            Stopped: A signal asked for it.
        """
        wait = (
            None if on_wait is None else lambda owner: on_wait(f"process {owner.pid}" if owner else "another process")
        )
        with self.settings.store.draft(recipe, on_wait=wait) as draft, matmul_precision(recipe.budget["matmul"]):
            return draft.entry or self._train(recipe, draft, observer)

    def _train(self, recipe: Recipe, draft: Draft, observer: Observer) -> Entry:
        data = self.builder.data_taught(recipe)
        student, teachers = self._networks(recipe, data)
        teacher_seconds, extra, own, asked = 0.0, 0, count_parameters(student), _asked(None)
        record, measure = Record(), self._measures(recipe, data)
        if recipe.epochs:
            assert recipe.optim is not None
            for note in schedule_notes(recipe.optim["schedule"], recipe.phase_epochs[-1]):
                observer.on_note(note)
            loader = self._train_loader(recipe, data)
            recalls = make_recalls(recipe, teachers, loader, data.spec, self._cache, observer.on_note)
            distiller = self.builder.distiller(recipe, student, teachers, data.spec, len(loader), recalls)
            in_place = lighten(distiller.readers, data.spec, compiled=bool(recipe.budget["compile"]))
            if added := count_parameters(student) - own:
                observer.on_note(
                    f"{recipe.name} is deployed as its method changes it: {own + added} parameters, {own} without it"
                )
            measure = self._measures(recipe, data, teachers if distiller.teachers else (), observer.on_note)
            observed = _observed(recipe, measure)
            with ranks_running(self.settings.devices, self.device.type, _other_rank, self.settings, recipe, draft):
                record = fit(distiller, loader, draft, self._loop(recipe), measure=observed, observer=observer)
            teacher_seconds, asked = distiller.teacher_clock.seconds, _asked(distiller)
            extra = count_parameters(distiller.criteria)
            student = distiller.deployed
            set_in_place(student, in_place, False)  # measured as it is built
        raise_if_stopped()
        student = student.to(self.device)
        _check_weights(recipe, student)
        draft.write_weights("last", student.state_dict())
        if record.best_weights is not None:
            draft.write_weights("best", record.best_weights)
        metrics = self._final(recipe, student, draft, record, data, measure)
        if recipe.network["train"] == "none" and (doubt := _doubt(recipe, metrics)):
            observer.on_note(doubt)
        seconds = {**record.seconds, "teacher": teacher_seconds}
        seconds["student"] = max(
            seconds["total"] - sum(seconds[part] for part in ("data", "evaluation", "teacher")), 0.0
        )
        metrics |= {**asked, "extra_parameters": extra, "seconds": seconds}
        metrics["added_parameters"] = metrics["parameters"] - own
        return draft.commit(metrics, record.history, environment(self.settings, self.device))

    # -- parts ----------------------------------------------------------------------------------------------------

    def _networks(self, recipe: Recipe, data: DataSplits) -> tuple[Network, list[Network]]:
        teachers = [self.builder.trained(teacher.digest).to(self.device) for teacher in recipe.teachers]
        return self.builder.network(recipe, data.spec), teachers

    def _train_loader(self, recipe: Recipe, data: DataSplits) -> TrainLoader:
        config = recipe.data
        return TrainLoader(
            data.train,
            recipe.budget["batch_size"],
            seed=recipe.seed,
            views=make_views(config["augment"]),
            mixes=make_mixes(config["augment"]),
            two_views=self.builder.two_views(recipe),
            view_seed=config["view_seed"],
            limit_batches=recipe.budget["limit_train_batches"],
            cycle=teaching(recipe).get("views"),
            memory_format=LAYOUTS[recipe.budget["layout"]],
            device=self.device,
            workers=self.settings.loader_workers,
        )

    def _loop(self, recipe: Recipe) -> Loop:
        return Loop(
            max_epochs=recipe.epochs,
            precision=recipe.budget["precision"],
            clip=recipe.budget["clip"],
            select_on=recipe.select_on,
            device=self.device,
            strategy=self.settings.strategy,
            checkpoint_every=self.settings.checkpoint_every,
            conditions={"devices": self.settings.devices, **self._conditions},
        )

    def _measures(self, recipe: Recipe, data: DataSplits, teachers: Sequence[Network] = (),
                  note: Callable[[str], None] = lambda _: None) -> dict[str, Measure]:  # fmt: skip
        """For each split, a function that measures a network on it; what teachers say there is asked once."""
        layout, size = recipe.budget["layout"], self.settings.eval_batch_size

        def measure(name: str, split: ImageSplit, network: nn.Module) -> dict[str, float]:
            loader = EvalLoader(split, size, memory_format=LAYOUTS[layout], device=self.device,
                                workers=self.settings.loader_workers)  # fmt: skip
            known = [
                self._cache.logits(evaluation_pass(recipe, of.digest, name, size, teacher.folded),
                                   Source(teacher.to(self.device), len(split), loader.at, note))
                for teacher, of in zip(teachers, recipe.teachers, strict=False)
            ]  # fmt: skip
            autocast = autocast_type(recipe.budget["precision"])
            return evaluate(network, loader, teacher_logits=known, device=self.device, autocast=autocast)

        splits = {"val": data.val, "test": data.test}
        return {name: partial(measure, name, split) for name, split in splits.items() if split is not None}

    def _final(self, recipe: Recipe, student: nn.Module, draft: Draft, record: Record, data: DataSplits,
               measure: Mapping[str, Measure]) -> dict[str, Any]:  # fmt: skip
        """The numbers of the selected weights; the only place where a clean protocol touches the test set."""
        if recipe.select_on != "last":
            assert record.best_weights is not None
            student.load_state_dict(record.best_weights)
        started = time.perf_counter()
        splits = {name: _finite(function(student)) for name, function in measure.items()}
        shape = data.spec.input_shape
        metrics = {
            "select_on": recipe.select_on,
            "epochs": recipe.epochs,
            "images": record.images,
            "best": record.best,
            **splits,
            "parameters": count_parameters(student),
            "macs": count_macs(student, shape),
            "latency_ms": latency(student, shape)[1],
        }
        record.seconds["evaluation"] += time.perf_counter() - started
        record.seconds["total"] += time.perf_counter() - started
        return metrics


def _other_rank(rank: int, settings: Settings, recipe: Recipe, draft: Draft) -> Callable[[], Record]:
    """What another rank trains in step with :meth:`Trainer._train`; it writes nothing and measures nothing."""
    trainer = Trainer(settings, rank)
    data = trainer.builder.data_taught(recipe)
    student, teachers = trainer._networks(recipe, data)
    loader = trainer._train_loader(recipe, data)
    recalls = make_recalls(recipe, teachers, loader, data.spec, trainer._cache, lambda _: None)
    distiller = trainer.builder.distiller(recipe, student, teachers, data.spec, len(loader), recalls)
    torch.set_float32_matmul_precision(recipe.budget["matmul"])
    lighten(distiller.readers, data.spec, compiled=bool(recipe.budget["compile"]))
    return partial(fit, distiller, loader, draft, trainer._loop(recipe), measure={}, observer=Unheard())


def _asked(distiller: Distiller | None) -> dict[str, int]:
    """What the training asked of teachers; what measures the student's agreement with them is no part of it."""
    return {
        "queried_images": len(distiller.queried) if distiller else 0,
        "teacher_queries": distiller.teacher_queries if distiller else 0,
        "teacher_forwards": distiller.teacher_forwards if distiller else 0,
    }


def _check_weights(recipe: Recipe, network: nn.Module) -> None:
    """The last look: a loss is measured before the step that may have ruined the weights."""
    if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values() if tensor.is_floating_point()):
        raise TrainingError(f"{recipe.name} diverged: its weights are not finite; lower optim.lr or set trainer.clip")


def _doubt(recipe: Recipe, metrics: Mapping[str, Any]) -> str | None:
    """What to say of a teacher that is used as it is and knows next to nothing of these data."""
    split = "val" if "val" in metrics else "test"
    chance = 100 / recipe.data["num_classes"]
    if (accuracy := metrics[split]["acc"]) >= 2 * chance:
        return None
    return (f"teacher {recipe.name} has {accuracy:.1f} % on the {split} set, chance is {chance:.1f} %: its file may "
            "name weights, order classes or normalise images in another way (dataset.mean, dataset.std)")  # fmt: skip


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers as JSON can hold them: what is not finite was not measured."""
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _observed(recipe: Recipe, measure: Mapping[str, Measure]) -> dict[str, Measure]:
    """What is measured after each epoch: validation, and the test set only where a protocol selects on it."""
    return {name: function for name, function in measure.items() if name == "val" or recipe.select_on == "test"}


def _check_budget(recipe: Recipe, device: torch.device) -> None:
    budget = recipe.budget
    problems = kernel_problems(budget)
    precisions = {"precision": budget["precision"], "teacher_precision": teaching(recipe).get("precision", "32-true")}
    for key, precision in precisions.items():
        if precision == "16-mixed" and device.type == "cpu":
            problems.append(f"trainer.{key}=16-mixed: CPUs have no half precision; use bf16-mixed")
    if problems:
        raise ConfigError(problems)


def _check_two_gradients(recipe: Recipe, devices: int, *, taught: bool) -> None:
    """Whether the gradient of the task can be told from that of distillation."""
    assert recipe.optim is not None
    optimizer, budget, problems = recipe.optim["_target_"].rpartition(".")[2], recipe.budget, []
    if not taught:
        problems.append(f"{recipe.name} has no teacher, and {optimizer} tells the gradient of distillation from that "
                        "of the task: give it to who has one, as hops.student.optim=NAME")  # fmt: skip
    plain = {"devices": (devices, 1), "clip": (budget["clip"], None), "compile": (budget["compile"], None)}
    for key, (given, only) in plain.items():
        if given != only:
            problems.append(f"trainer.{key}={given}: not with the two gradients of {optimizer}; use trainer.{key}="
                            f"{'null' if only is None else only}")  # fmt: skip
    if budget["precision"] == "16-mixed":
        problems.append(f"trainer.precision=16-mixed: scales one gradient, {optimizer} has two; use bf16-mixed")
    if problems:
        raise ConfigError(problems)


def check_all(recipes: Iterable[Recipe], settings: Settings) -> tuple[list[str], dict[str, str]]:
    """The second stage of checks: builds every training once; seeds apart, equal ones only once.

    Returns:
        One line per problem; and for each recipe whose method cannot serve its pair, by digest, the reason.
    """
    trainer = Trainer(settings)
    problems: list[str] = []
    unsuitable: dict[str, str] = {}
    known: dict[str, str | None] = {}
    for recipe in recipes:
        key = digest_of(without_seeds(recipe))
        if key not in known:
            known[key] = None
            try:
                trainer.check(recipe)
            except UnsuitableError as error:
                known[key] = error.problems[0]
            except ConfigError as error:
                problems += [problem for problem in error.problems if problem not in problems]
        if (reason := known[key]) is not None:
            unsuitable[recipe.digest] = reason
    return problems, unsuitable


def without_seeds(recipe: Recipe) -> dict[str, Any]:
    """The content of a recipe with all seeds zero: equal for what can be built, and measured, in the same way."""
    return replace(recipe, seed=0, teachers=()).to_dict() | {"teachers": [without_seeds(t) for t in recipe.teachers]}


def environment(settings: Settings, device: torch.device) -> dict[str, Any]:
    """What stands beside a recipe: libraries, machine, threads; weights are bit-identical only under equal ones."""
    libraries = ("torch", "torchvision", "pytorch-lightning", "timm", "torchmetrics", "numpy")
    return {
        "kdbench": kdbench.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in libraries},
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "devices": settings.devices,
        "threads": settings.threads,
        "host": platform.node(),
    }


def _commit() -> str | None:
    folder = Path(kdbench.__file__).parent
    if not (folder.parent / ".git").exists():
        return None
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None
