"""One training under a Lightning Trainer: history, best weights, resumable states, prompt stops."""

from __future__ import annotations

import copy
import logging
import signal
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from kdbench.core.clock import Clock
from kdbench.core.errors import Stopped, TrainingError
from kdbench.core.ranks import agreed, first_rank_first, world
from kdbench.core.signals import stop_signal
from kdbench.data.loader import TrainLoader
from kdbench.distiller import STATE_KEYS, Distiller
from kdbench.store import Draft
from kdbench.strategies import is_sharded, leaves_out, placement, whole

CHECK_EVERY = 50  # steps between looks at the loss: each look waits for the device

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)


class Observer(Protocol):
    """What watches a training: a progress display, the loggers."""

    def on_step(self, step: int, epoch: int) -> None:
        """Called after every step; must be cheap."""
        ...

    def on_epoch(self, row: Mapping[str, float], epoch: int) -> None:
        """Called with each new row of the history, after a resume with the earlier ones too."""
        ...

    def on_note(self, text: str) -> None:
        """Something the user should know."""
        ...


class Unheard:
    """The observer of ranks that tell nobody."""

    def on_step(self, step: int, epoch: int) -> None:
        """Nothing."""

    def on_epoch(self, row: Mapping[str, float], epoch: int) -> None:
        """Nothing."""

    def on_note(self, text: str) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Loop:
    """What a training is run with beside what determines its weights.

    Attributes:
        max_epochs: Epochs of the whole training, all phases together.
        precision: A key of :data:`kdbench.core.precision.PRECISIONS`.
        clip: Largest norm of the gradient, or ``None``.
        select_on: ``last``, ``val`` or ``test``.
        device: What this rank computes on.
        strategy: What joins several ranks: a key of :data:`kdbench.strategies.STRATEGIES`.
        checkpoint_every: Seconds between resumable states; 0 for one per step.
        conditions: What bit identity holds under: number of devices, thread count, library versions.
    """

    max_epochs: int
    precision: str
    clip: float | None
    select_on: str
    device: torch.device
    strategy: str
    checkpoint_every: float
    conditions: Mapping[str, Any]


@dataclass
class Record:
    """What a training remembers of itself; survives a kill inside the checkpoint.

    Attributes:
        history: One row per epoch.
        best: Epoch and accuracy (percent) of the best weights on the set that selects, if one does.
        best_weights: Those weights; here and not in a file, so that they are always those of ``best``.
        seconds: Wall time of all runs of this training: ``total``, ``data``, ``evaluation``.
        images: Training samples seen.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] | None = None
    best_weights: dict[str, Tensor] | None = None
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("total", "data", "evaluation"), 0.0))
    images: int = 0


class _DraftIO(CheckpointIO):
    """Checkpoints go through the draft (atomic, clear errors), and are read without unpickling code."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self._draft.write(Path(path).name, lambda file: torch.save(checkpoint, file))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class _Loader:
    """The training loader as Lightning sees it: one that can be resumed."""

    def __init__(self, loader: TrainLoader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Any:
        return iter(self._loader)

    def state_dict(self) -> dict[str, Any]:
        return {}  # the position is a function of the global step

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class _Unwatched(PassThroughProfiler):
    """Lightning's default measures nothing either, but builds a context for it 26 times a step."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return nullcontext()


class _Recorder(pl.Callback):
    def __init__(self, loop: Loop, draft: Draft, loader: TrainLoader, observer: Observer,
                 measure: Mapping[str, Callable[[torch.nn.Module], Mapping[str, float]]]) -> None:  # fmt: skip
        self.record = Record()
        self.weights: dict[str, Tensor] = {}  # of the deployed network, where its parameters were sharded
        self._loop, self._draft, self._loader, self._observer = loop, draft, loader, observer
        self._measure = measure
        self._clock = Clock()
        self._on_sigterm = signal.getsignal(signal.SIGTERM)
        self._saved_at = self._started_at = time.perf_counter()
        self._before = dict(self.record.seconds)

    # -- state ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        self._tick()
        return {"record": vars(self.record).copy(), "conditions": dict(self._loop.conditions)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.record = Record(**state_dict["record"])
        self._before = dict(self.record.seconds)
        then, now = state_dict["conditions"], dict(self._loop.conditions)
        if changed := [f"{key} {then.get(key)} -> {now[key]}" for key in now if then.get(key) != now[key]]:
            self._observer.on_note(f"resumed under other conditions ({', '.join(changed)}): "
                                   "the weights will not be bit-identical to an uninterrupted run")  # fmt: skip
        for row in self.record.history:
            self._observer.on_epoch(row, int(row["epoch"]))

    def _tick(self) -> None:
        run = {
            "total": time.perf_counter() - self._started_at,
            "data": self._loader.seconds,
            "evaluation": self._clock.seconds,
        }
        self.record.seconds = {name: self._before[name] + seconds for name, seconds in run.items()}

    # -- hooks ----------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if world() > 1:  # Lightning's handler talks to the other ranks from inside a signal, whatever they are doing
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any,
                           batch_idx: int) -> None:  # fmt: skip
        step = trainer.global_step
        self.record.images += len(batch.target)
        self._observer.on_step(step, trainer.current_epoch)
        if step % CHECK_EVERY == 0:
            self._check_finite(trainer, pl_module)
        if batch_idx + 1 == len(self._loader):
            return  # the end of an epoch is saved after its evaluation
        self._pause(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check_finite(trainer, pl_module)
        assert isinstance(pl_module, Distiller)
        epoch = trainer.current_epoch + 1
        row: dict[str, float] = {"epoch": epoch, "lr": trainer.optimizers[0].param_groups[0]["lr"]}
        row.update(pl_module.epoch_averages())
        with self._clock.running(pl_module.device), whole(trainer.strategy):
            for split, measure in self._measure.items():
                row.update({f"{split}/{name}": value for name, value in measure(pl_module.deployed).items()})
            if pl_module.in_last_phase:
                self._keep_best(row, pl_module)
        self.record.history.append(row)
        self._observer.on_epoch(row, epoch)
        self._pause(trainer, save=epoch == self._loop.max_epochs)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Distiller)
        if is_sharded(trainer.strategy):
            with whole(trainer.strategy):
                self.weights = _on_cpu(pl_module.deployed)

    def _keep_best(self, row: Mapping[str, float], distiller: Distiller) -> None:
        split = "test" if self._loop.select_on == "test" else "val"
        value = row.get(f"{split}/acc")
        if value is not None and (self.record.best is None or value > self.record.best["acc"]):
            self.record.best = {"epoch": row["epoch"], "acc": value}
            self.record.best_weights = _on_cpu(distiller.deployed)

    def _check_finite(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Distiller)
        if not module.loss_is_finite():
            lr = trainer.optimizers[0].param_groups[0]["lr"]
            raise TrainingError(
                f"{self._draft.recipe.name} diverged: the loss is no longer finite at step {trainer.global_step} "
                f"(epoch {trainer.current_epoch + 1}, learning rate {lr:g}); lower optim.lr or set trainer.clip"
            )

    def _due(self) -> bool:
        return time.perf_counter() - self._saved_at >= self._loop.checkpoint_every

    def _pause(self, trainer: pl.Trainer, *, save: bool = False) -> None:
        """Saves the state if it is time to, and stops behind that if a signal asked any rank to."""
        stop, due = agreed(stop_signal(), int(save or self._due()))
        if stop or due:
            self._save(trainer)
        if stop:
            raise Stopped(stop)

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self._draft.checkpoint)
        self._saved_at = time.perf_counter()


def fit(
    distiller: Distiller,
    loader: TrainLoader,
    draft: Draft,
    loop: Loop,
    *,
    measure: Mapping[str, Callable[[torch.nn.Module], Mapping[str, float]]],
    observer: Observer,
) -> Record:
    """Trains to the end, from the draft's checkpoint if there is one.

    Args:
        distiller: What is trained.
        loader: Its batches.
        draft: Where checkpoints and the best weights go.
        loop: How the loop is run.
        measure: For each split to measure after an epoch, a function of the network.
        observer: Told of steps, epochs and notes.

    Returns:
        What the training remembers of itself.

    Raises:
        TrainingError: The loss is no longer finite.
        StoreError: The disk is full or read-only.
        Stopped: A signal asked for it; a resumable state was saved before.
    """
    recorder = _Recorder(loop, draft, loader, observer, measure)
    checkpoint = _same_checkpoint(draft, observer)
    unused = world() > 1 and leaves_out(distiller.student.to(loop.device), next(iter(loader)).inputs[:2])
    loader.seek(0 if checkpoint is None else checkpoint["global_step"])
    with warnings.catch_warnings():
        _silence_third_parties()
        trainer = pl.Trainer(
            **placement(loop.device, loop.strategy, unused=unused),
            precision=loop.precision,  # type: ignore[arg-type]
            max_epochs=loop.max_epochs,
            gradient_clip_val=loop.clip,
            callbacks=[recorder],
            plugins=[_DraftIO(draft)],
            profiler=_Unwatched(),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        student = distiller.student
        if is_sharded(trainer.strategy):
            student = copy.deepcopy(student)
            # FSDP cuts an optimiser's state in the order of memory, and reads it back in that of the indices.
            distiller.student.to(memory_format=torch.contiguous_format)
        try:
            trainer.fit(distiller, _Loader(loader), ckpt_path=None if checkpoint is None else str(draft.checkpoint))
        except SIGTERMException as error:  # the signal came between our look for it and Lightning's
            raise Stopped(signal.SIGTERM) from error
    if recorder.weights:
        student.load_state_dict(recorder.weights)
        distiller.student = student
    recorder._tick()
    return recorder.record


def _same_checkpoint(draft: Draft, observer: Observer) -> dict[str, Any] | None:
    """:func:`_readable_checkpoint` on every rank: those that only read come after the one that may drop it."""
    with first_rank_first():
        return _readable_checkpoint(draft, observer)


def _on_cpu(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}


def _readable_checkpoint(draft: Draft, observer: Observer) -> dict[str, Any] | None:
    """The state to go on from; a damaged one is named and dropped, since the training can start again."""
    if not draft.checkpoint.is_file():
        return None
    try:
        checkpoint = torch.load(draft.checkpoint, map_location="cpu", weights_only=True)
        if checkpoint["distiller"].keys() == set(STATE_KEYS):
            return checkpoint
        problem = "of another version of kdbench"
    except Exception as error:  # noqa: BLE001 (torch.load raises almost anything on damaged files)
        problem = f"damaged ({type(error).__name__})"
    observer.on_note(f"the resumable state of {draft.recipe.name} is {problem}; its training starts again")
    draft.checkpoint.unlink()
    return None


def _silence_third_parties() -> None:
    # torch 2.14 announces this change from inside Lightning 2.6's own code; nothing a user of kdbench can act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(pytorch_lightning|torch|lightning_fabric)\.")
    warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=r".*in eval mode.*")
