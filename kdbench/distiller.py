"""The training of one network, with or without teachers, as a LightningModule."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from kdbench.core.clock import Clock
from kdbench.core.phases import Phase
from kdbench.core.precision import autocast_type
from kdbench.core.queried import Queried
from kdbench.core.ranks import LEAST_ROWS, Share, rank
from kdbench.core.schedules import make_schedule
from kdbench.core.seeds import derive_seed
from kdbench.core.taps import TapReader
from kdbench.core.types import Batch, ModelOutput, Progress
from kdbench.criteria.base import Criterion
from kdbench.optim import make_optimizer, make_scheduler
from kdbench.reading import Reader, Recall, in_float32, terms_of

TASK = "task"
_NUMBERS = frozenset(("_current_fx_name", "_task", "_seen", "teacher_queries", "_forwards"))  # set at every step
STATE_KEYS = (  # of resumable states
    "phase", "averages", "seen", "teacher_queries", "queried", "teacher_forwards", "teacher_seconds",
)  # fmt: skip


def task_loss(logits: Tensor, batch: Batch) -> Tensor:
    r"""Cross-entropy with the labels, :math:`-\tfrac1B \sum_i \log p_{i, y_i}`; where two are mixed, by their shares.

    Args:
        logits: `(B, C)`.
        batch: What they are of.

    Returns:
        Scalar in nats, float32.
    """
    if batch.mix is None:
        return F.cross_entropy(logits.float(), batch.target)
    return batch.over_labels(lambda target: F.cross_entropy(logits.float(), target, reduction="none")).mean()


def _frozen(network: nn.Module) -> nn.Module:
    return network.requires_grad_(False).eval()


class Distiller(pl.LightningModule):
    """Trains ``student`` on the weighted sum of the task loss and the terms of ``criteria``.

    The only place that multiplies terms by weights. Teachers live outside the module tree: they are moved with it, and
    are absent from parameters, ``state_dict`` and train mode; no gradient ever reaches their weights.

    Args:
        student: The network to train; maps pixels to logits `(B, C)`.
        teachers: Trained networks; their outputs are constants.
        criteria: Named criteria, already set up for these networks.
        weights: Number or schedule of each term, ``task`` among them.
        taps: For each criterion that reads features, names of the ``student``'s and of the ``teacher``'s taps.
        optim: Optimiser and schedule.
        steps_per_epoch: Optimiser steps per epoch.
        max_epochs: Epochs of the training proper.
        before: Phases that come before it, each with weights and an optimiser of its own.
        seed: Reseeds the global generator as a function of the step, so that a resumed run draws the same dropout.
        only: Module paths of the parts to train while everything else stays frozen; empty trains all.
        recalls: For each teacher what answers in its place, or ``None``; empty: all are asked live.
        teacher_precision: A key of :data:`kdbench.core.precision.PRECISIONS` for the teachers alone, whose answers are
            then taken in float32; ``None`` for the student's.
        ema: Decay per step of a moving average of the weights, in (0, 1), reached by ``(1 + step) / (10 + step)`` so
            that the random start is forgotten; ``None`` keeps none.
        compile_mode: Of ``torch.compile`` for the student's forward and backward pass; ``None`` does not compile.
        trusted: Packages of the user's, whose optimisers may be used.
        synchronised: On several devices: whether BatchNorm takes its statistics over the whole batch.
        queryable: By ``Batch.index``, whether teachers may be asked about an image, `(index_size,)` bool; ``None``:
            about all. The others are taught by the task loss alone, on one device.
    """

    _sums: Tensor
    _queryable: Tensor | None

    def __init__(
        self,
        student: nn.Module,
        teachers: Sequence[nn.Module] = (),
        criteria: Mapping[str, Criterion] | None = None,
        *,
        weights: Mapping[str, Any],
        taps: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        optim: Mapping[str, Any],
        steps_per_epoch: int,
        max_epochs: int,
        before: Sequence[Phase] = (),
        seed: int,
        only: Sequence[str] = (),
        recalls: Sequence[Recall | None] = (),
        teacher_precision: str | None = None,
        ema: float | None = None,
        compile_mode: str | None = None,
        trusted: Sequence[str] = (),
        synchronised: bool = True,
        queryable: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.criteria = nn.ModuleDict(dict(criteria or {}))
        self.ema = None if ema is None else _frozen(copy.deepcopy(student))
        self._ema_decay = ema
        self._only = tuple(only)
        if self._only:
            student.requires_grad_(False)
        for path in self._only:
            student.get_submodule(path).requires_grad_(True)
        self._trainable = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self._teachers = tuple(_frozen(teacher) for teacher in teachers)
        sides = {side: {name: both[side] for name, both in (taps or {}).items()} for side in ("student", "teacher")}
        self._student_reader = Reader(student, sides["student"], compile_mode)
        self._teacher_readers = tuple(Reader(teacher, sides["teacher"]) for teacher in self._teachers)
        self._recalls = tuple(recalls) or (None,) * len(self._teachers)
        self._teacher_precision = teacher_precision
        self._phases = (*before, Phase(max_epochs, weights, optim))
        self._steps_per_epoch, self._seed, self._trusted = steps_per_epoch, seed, trusted
        self._synchronised = synchronised
        self.register_buffer("_sums", torch.zeros(0, dtype=torch.float64), persistent=False)
        self._seen = 0
        self._task: Tensor | None = None  # its weighted loss, from the forward pass to the backward pass
        self.enter_phase(0)
        self.register_buffer("_queryable", queryable, persistent=False)
        self.queried = Queried()
        self.teacher_queries = self._forwards = 0
        self.teacher_clock = Clock()

    def __setattr__(self, name: str, value: Any) -> None:
        """Spares what is set dozens of times a step, by Lightning above all, the search for modules and parameters."""
        if name in _NUMBERS:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def teacher_forwards(self) -> int:
        """Samples that teachers were shown; below ``teacher_queries`` where their answers were recalled."""
        return self._forwards + sum(recall.forwards for recall in self._recalls if recall is not None)

    @property
    def teachers(self) -> tuple[nn.Module, ...]:
        """The networks whose outputs are constants: none for one that learns together with the student."""
        return self._teachers

    @property
    def readers(self) -> tuple[TapReader, ...]:
        """The student and the teachers as they run here, with the taps that criteria read."""
        return tuple(reader.read for reader in (self._student_reader, *self._teacher_readers))

    @property
    def deployed(self) -> nn.Module:
        """The network that is evaluated and kept: the moving average where there is one."""
        return self.student if self.ema is None else self.ema

    def enter_phase(self, number: int) -> None:
        """Lets the terms, and the trainable parts, of phase ``number`` hold; the last one is the training proper."""
        self.phase, phase = number, self._phases[number]
        self._past = sum(past.epochs for past in self._phases[:number]) * self._steps_per_epoch
        self._schedules = {name: make_schedule(name, value) for name, value in phase.weights.items()}
        self._averages = ("loss", *(f"term/{name}" for name in self._schedules), "acc")
        self._sums = self._sums.new_zeros(len(self._averages))
        self._active: dict[str, Criterion] = {}
        for name, criterion in self.criteria.items():
            assert isinstance(criterion, Criterion)
            wanted = self._schedules.keys() & set(criterion.terms)
            criterion.requires_grad_(bool(wanted))
            criterion.enter_phase(wanted)
            if wanted:
                self._active[name] = criterion
        for parameter in self._trainable:
            parameter.requires_grad_(True)
        for path in phase.frozen:
            self.student.get_submodule(path).requires_grad_(False)
        self.train(self.training)

    @property
    def in_last_phase(self) -> bool:
        """Whether this is the training proper, whose weights alone can be the best."""
        return self.phase + 1 == len(self._phases)

    def train(self, mode: bool = True) -> Distiller:
        """Train mode for the student and the criteria; what is frozen and the moving average stay in eval mode."""
        super().train(mode)
        for path in ("",) if self._only else self._phases[self.phase].frozen:
            self.student.get_submodule(path).eval()
        if self.ema is not None:
            self.ema.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        for teacher in self._teachers:
            teacher._apply(fn)
        return super()._apply(fn, recurse)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Nothing: batches are made where they are needed."""
        return batch

    def progress(self) -> Progress:
        """Where the phase stands."""
        epochs = self._phases[self.phase].epochs
        return Progress(self.global_step - self._past, epochs * self._steps_per_epoch, self._steps_per_epoch)

    def on_train_epoch_start(self) -> None:
        """Goes on to the next phase where one ends, with a new optimiser and a schedule from its start."""
        if self.progress().fraction >= 1.0 and not self.in_last_phase:
            self.enter_phase(self.phase + 1)
            self.trainer.strategy.setup_optimizers(self.trainer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Weighted sum of the terms on one batch, a scalar; of several devices each has it of all rows."""
        progress = self.progress()
        step = self._past + progress.step
        share = Share(batch, synchronised=self._synchronised)
        self._reseed(step, *([rank()] if share.divided else []))
        rows = None if self._queryable is None else self._queryable[batch.index].nonzero().squeeze(1)
        asked = share if rows is None else Share(batch.rows(rows))
        teachers = self._ask_teachers(asked)
        with share.statistics():
            student = self._student_reader(share.own)
        logits = share.gather(student.logits)
        terms = {TASK: task_loss(logits, batch)}
        if share.divided:
            self._reseed(step)  # networks draw for their own rows, criteria the same on every rank
        terms |= self._taught(student if rows is None else student.rows(rows), teachers, asked, len(batch.target))
        weighted = {name: schedule(progress) * terms[name] for name, schedule in self._schedules.items()}
        loss = torch.stack(list(weighted.values())).sum()
        self._task = weighted.get(TASK)
        self._record(loss, terms, logits, batch.main_target)
        return loss

    def _taught(
        self, student: ModelOutput, teachers: Sequence[ModelOutput], share: Share, size: int
    ) -> dict[str, Tensor]:
        """The terms of what teachers were asked about, times its part in the batch: other rows count as zeros."""
        part = len(share.batch.target) / size
        if not self._enough(share):
            zero = student.logits[:0].float().sum()
            return {name: zero for criterion in self._active.values() for name in criterion.terms}
        terms: dict[str, Tensor] = {}
        for name, criterion in self._active.items():
            own = self._student_reader.share(name, student, self._student_reader.read)
            others = [
                reader.share(name, output, partial(self._query, reader))
                for reader, output in zip(self._teacher_readers, teachers, strict=True)
            ]
            terms.update(terms_of(criterion, own, others, share))
        return terms if part == 1 else {name: part * term for name, term in terms.items()}

    def _enough(self, share: Share) -> bool:
        """Whether criteria can compare, and normalise, what teachers may be asked about: no loader gives less."""
        return self._queryable is None or len(share.batch.target) >= LEAST_ROWS

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients of the sum; an optimiser of two gradients is told which part of them is the task's."""
        optimizer, task, self._task = self.optimizers(use_pl_optimizer=False), self._task, None
        if getattr(optimizer, "two_gradients", False) and task is not None:
            parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
            found = torch.autograd.grad(task, parameters, retain_graph=True, allow_unused=True)
            pairs = zip(parameters, found, strict=True)
            optimizer.split({parameter: own for parameter, own in pairs if own is not None})  # type: ignore[union-attr]
        super().backward(loss, *args, **kwargs)

    def _reseed(self, step: int, *rank: int) -> None:
        seed = derive_seed(self._seed, "step", step, *rank)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _ask_teachers(self, share: Share) -> tuple[ModelOutput, ...]:
        if not self._active or not self._enough(share):
            return ()
        if self._teacher_readers:
            self.queried.add(share.batch.index)
        views = 1 if share.batch.second is None else 2
        self.teacher_queries += views * len(share.batch.target) * len(self._teacher_readers)
        with self.teacher_clock.running(self.device), torch.no_grad(), self._teacher_autocast():
            return tuple(self._ask(*one, share) for one in zip(self._teacher_readers, self._recalls, strict=True))

    def _teacher_autocast(self) -> AbstractContextManager[Any]:
        if self._teacher_precision is None:
            return nullcontext()
        dtype = autocast_type(self._teacher_precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def _ask(self, reader: Reader, recall: Recall | None, share: Share) -> ModelOutput:
        if recall is None:
            self._forwards += len(share.batch.target) * (1 if share.batch.second is None else 2)
            output = reader(share.own)
        else:
            output = recall(share.own, (self._past + self.progress().step) // self._steps_per_epoch)
        return output if self._teacher_precision is None else in_float32(output)

    def _query(self, reader: Reader, inputs: Tensor) -> ModelOutput:
        """A question of a criterion's own, with gradient to the inputs where they have one."""
        self.teacher_queries += len(inputs)
        self._forwards += len(inputs)
        with self.teacher_clock.running(self.device):
            return reader.read(inputs)

    @torch.no_grad()
    def _record(self, loss: Tensor, terms: Mapping[str, Tensor], logits: Tensor, target: Tensor) -> None:
        """Adds the batch to the epoch's averages, on the device: nothing is read back before the epoch ends."""
        correct = (logits.argmax(1) == target).sum(dtype=torch.float64)
        size = len(target)
        means = torch.stack([loss, *(terms[name] for name in self._schedules)])
        self._sums[:-1].add_(means, alpha=size)  # in the sums' float64
        self._sums[-1].add_(correct)
        self._seen += size

    def epoch_averages(self) -> dict[str, float]:
        """Mean loss, terms (unweighted) and accuracy (percent) over the epoch's samples, and the weights at its end.

        A mixed sample counts as one of the class that most of it is of.
        """
        means = (self._sums / max(self._seen, 1)).tolist()
        self._sums.zero_()
        self._seen = 0
        row = {f"train/{name}": value for name, value in zip(self._averages, means, strict=True)}
        row["train/acc"] *= 100.0
        if len(self._phases) > 1:
            row["phase"] = self.phase + 1
        progress = self.progress()
        row.update({f"train/weight/{name}": schedule(progress) for name, schedule in self._schedules.items()})
        return row

    def loss_is_finite(self) -> bool:
        """Whether the epoch's loss so far is a number; reads the device, so it is asked rarely."""
        return bool(self._sums[0].isfinite())

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step, and what follows it: memory banks and averages of criteria, the moving average of the weights.

        Here and not in ``on_train_batch_end``, which Lightning calls after the callbacks' own: a checkpoint written
        there would hold the new weights with the old averages.
        """
        super().optimizer_step(*args, **kwargs)
        done = self.progress()
        with torch.no_grad():
            for criterion in self._active.values():
                criterion.after_step(replace(done, step=done.step + 1))  # Lightning counts the step after this hook
            self._move_average(done.step)

    def _move_average(self, step: int) -> None:
        if self.ema is None or self._ema_decay is None:
            return
        decay = min(self._ema_decay, (1 + step) / (10 + step))
        average, current = self.ema.state_dict(), self.student.state_dict()
        for name, value in average.items():  # shares memory with the average itself
            if value.is_floating_point():
                value.lerp_(current[name], 1.0 - decay)
            else:
                value.copy_(current[name])

    def configure_optimizers(self) -> Any:
        """The phase's optimiser over the student and every trainable part of the criteria; schedule per step."""
        phase, steps = self._phases[self.phase], self._steps_per_epoch
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = make_optimizer(phase.optim, parameters, self._trusted, where=phase.where)
        scheduler = make_scheduler(optimizer, phase.optim["schedule"], steps * phase.epochs, steps, where=phase.where)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the running averages, so that an epoch that was interrupted reports what it would have."""
        found = (self.phase, self._sums.cpu().clone(), self._seen, self.teacher_queries, self.queried.index,
                 self.teacher_forwards, self.teacher_clock.seconds)  # fmt: skip
        checkpoint["distiller"] = dict(zip(STATE_KEYS, found, strict=True))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Inverse of :meth:`on_save_checkpoint`."""
        state = checkpoint["distiller"]
        self.enter_phase(state["phase"])
        self._sums.copy_(state["averages"])
        self._seen, self.teacher_queries = state["seen"], state["teacher_queries"]
        self._forwards = state["teacher_forwards"]
        self.queried = Queried(state["queried"])
        self.teacher_clock.seconds = state["teacher_seconds"]
