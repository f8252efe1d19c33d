"""Asks a teacher once about every sample, and answers in its place from then on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdbench.cache.identity import Pass
from kdbench.cache.packing import Rows, loss_of, pack, unpack_logits, widened
from kdbench.core.errors import StoreError, TrainingError
from kdbench.core.precision import autocast_type
from kdbench.core.ranks import first_rank_first, rank
from kdbench.core.recipe import digest_of
from kdbench.core.signals import raise_if_stopped
from kdbench.core.taps import TapReader
from kdbench.core.types import Batch, ModelOutput
from kdbench.metrics.base import evaluating
from kdbench.models.network import Network
from kdbench.store.cache import OutputCache, StaleCacheError

At = Callable[[Tensor], Batch]  # the samples at some positions of a split


def answers(network: Network, positions: Tensor, at: At, asked: Pass) -> Rows:
    """The network's ``logits`` and ``tap.NAME``s at some positions of a split, in eval mode, on its device.

    Raises:
        Stopped: A signal asked for it.
    """
    reader = TapReader(network, asked.taps)
    amp = autocast_type(asked.precision)
    parts: list[Rows] = []
    try:
        with evaluating(network), torch.no_grad():  # no inference mode: its tensors may not enter autograd later
            for chosen in positions.split(asked.batch_size):
                raise_if_stopped()
                inputs = at(chosen).inputs
                with torch.autocast(inputs.device.type, dtype=amp, enabled=amp is not None):
                    output = reader(inputs)
                features = {f"tap.{name}": values for name, values in output.features.items()}
                parts.append({"logits": output.logits, **features})
    finally:
        reader.close()
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def differing(kept: Mapping[str, Tensor], live: Mapping[str, Tensor], tolerance: float) -> str | None:
    """What of the kept rows the live teacher does not confirm; classes of equal logits may swap.

    Args:
        kept: Some rows as they are kept.
        live: The same, from the teacher, packed alike.
        tolerance: Part of the largest value by which they may differ.
    """
    for name, values in live.items():
        if values.is_floating_point():
            one, two = kept[name].float(), values.float().to(kept[name].device)
            worst = (one - two).abs().max()
            if not worst <= tolerance * two.abs().max():  # a NaN is a difference, too
                return f"its {name} are off by up to {worst:.2g}"
    return None


def _tolerance(asked: Pass) -> float:
    """Other kernels round otherwise; other weights give other numbers altogether."""
    return 1e-3 if asked.precision == "32-true" and asked.dtype == "float32" else 5e-2


@dataclass(frozen=True)
class Source:
    """A teacher, the samples it is asked about, and who is told of it.

    Attributes:
        network: The teacher, on its device.
        size: Samples of the split.
        at: The samples at some of its positions.
        note: Told what the user should know.
    """

    network: Network
    size: int
    at: At
    note: Callable[[str], None]


class Kept(NamedTuple):
    """Rows, and what came with them.

    Attributes:
        rows: As :func:`kdbench.cache.packing.pack` made them.
        remark: What a lossy form changed; empty for an exact one.
        shown: Samples that the teacher was shown to make or to confirm them.
    """

    rows: Rows
    remark: str
    shown: int


class TeacherCache:
    """Rows of teachers: from memory, from disk, or made now.

    Args:
        files: Where they are kept.
        on_disk: Whether exact rows of trainings go there; lossy ones, and those of evaluations, always do.
        check: Rows that the live teacher answers again whenever a file is opened.
        conditions: What bit identity holds under.
    """

    def __init__(self, files: OutputCache, *, on_disk: bool, check: int, conditions: Mapping[str, Any]) -> None:
        self.on_disk = on_disk
        self._files = files
        self._check = check
        self._conditions = dict(conditions)
        self._logits: dict[str, Tensor] = {}

    def logits(self, asked: Pass, source: Source) -> Tensor:
        """Exact logits `(N, C)` on what is measured: from disk where they can be kept there, else made now."""
        key = digest_of(asked.facts(self._conditions))
        if key not in self._logits:
            try:
                rows = self.rows(asked, source).rows
            except (StoreError, TrainingError):  # no place for them, or another batch has other answers
                rows = _all_answers(asked, source)
            self._logits[key] = rows["logits"]
        return self._logits[key]

    def rows(self, asked: Pass, source: Source) -> Kept:
        """Rows from disk, made first if need be; of several processes one makes them, the others wait.

        Raises:
            TrainingError: The teacher's answer to a sample depends on the rest of its batch.
            StoreError: The disk is full or read-only.
            Stopped: A signal asked for it.
        """
        waiting = f"waiting for another process, which asks teacher {source.network.name} about the same images"
        with self._files.claim(asked.teacher, asked.name(self._conditions), lambda: source.note(waiting)):
            try:
                if (found := self._open(asked, source)) is not None:
                    return found
            except StaleCacheError as error:
                source.note(f"{error.problems[0]}; it is made again")
            self._make(asked, source)
            try:
                made = self._open(asked, source)
            except StaleCacheError as error:
                raise TrainingError(f"teacher {source.network.name} answers otherwise in another batch "
                                    f"({error.problems[0]}): use cache=none") from error  # fmt: skip
            assert made is not None
            return made._replace(shown=made.shown + source.size)

    def made(self, asked: Pass) -> Kept:
        """Rows that another rank of this training has just made, or confirmed: read, without asking the teacher."""
        found = self._files.open(asked.teacher, asked.name(self._conditions), asked.facts(self._conditions))
        assert found is not None
        return Kept(*found, shown=0)

    def _make(self, asked: Pass, source: Source) -> None:
        live = _all_answers(asked, source)
        rows = pack(live, dtype=asked.dtype, top_k=asked.top_k)
        lossy = asked.dtype != "float32" or asked.top_k is not None
        remark = str(loss_of(live["logits"], unpack_logits(rows, live["logits"].shape[1]))) if lossy else ""
        self._files.write(asked.teacher, asked.name(self._conditions), asked.facts(self._conditions),
                          {name: values.cpu() for name, values in rows.items()}, remark)  # fmt: skip

    def _open(self, asked: Pass, source: Source) -> Kept | None:
        name = asked.name(self._conditions)
        found = self._files.open(asked.teacher, name, asked.facts(self._conditions))
        if found is None:
            return None
        rows, remark = found
        chosen = torch.linspace(0, source.size - 1, min(self._check, source.size)).long()
        if len(chosen):
            live = pack(answers(source.network, chosen, source.at, asked), dtype=asked.dtype, top_k=asked.top_k)
            if reason := differing({key: values[chosen] for key, values in rows.items()}, live, _tolerance(asked)):
                raise StaleCacheError(f"{name}, outputs of teacher {source.network.name}: {reason}")
        return Kept(rows, remark, len(chosen))


def _all_answers(asked: Pass, source: Source) -> Rows:
    return answers(source.network, torch.arange(source.size), source.at, asked)


class CachedTeacher:
    """Answers in a teacher's place; a :class:`kdbench.distiller.Recall`.

    All samples of a view are asked for at once, in the order of their index, so that a row is a function of what is
    asked alone and never of which student, or which of several workers, asked first.

    Args:
        cache: Where rows come from.
        source: For an epoch, the teacher and the samples as they look then.
        asked: For an epoch, what the teacher is asked.
        index: Position of each sample in the full training set, ascending, `(N,)` int64.
    """

    def __init__(self, cache: TeacherCache, source: Callable[[int], Source], asked: Callable[[int], Pass],
                 index: Tensor) -> None:  # fmt: skip
        self.forwards = 0
        self._cache, self._source, self._asked, self._index = cache, source, asked, index
        self._epoch = -1
        self._current: Pass | None = None
        self._classes = 0
        self._rows: Rows = {}

    def __call__(self, batch: Batch, epoch: int) -> ModelOutput:
        """What the teacher gives for ``batch``.

        Raises:
            TrainingError: The batch mixes images: no teacher was shown that mixture before.
        """
        if getattr(batch, "mix", None) is not None:
            raise TrainingError("cache=teacher: images are mixed anew in every batch, so that nothing can be kept; "
                                "use cache=none, or leave the mixing out")  # fmt: skip
        asked = self._asked_in(epoch)
        places = torch.searchsorted(self._index, batch.index)
        rows = {name: values.index_select(0, places) for name, values in self._rows.items()}
        return ModelOutput(unpack_logits(rows, self._classes), {tap: widened(rows[f"tap.{tap}"]) for tap in asked.taps})

    def _asked_in(self, epoch: int) -> Pass:
        """What is asked in an epoch, with its rows opened."""
        if self._current is None or epoch != self._epoch:
            self._epoch = epoch
            if (asked := self._asked(epoch)) != self._current:
                self._open(asked, self._source(epoch))
                self._current = asked
        assert self._current is not None
        return self._current

    def _open(self, asked: Pass, source: Source) -> None:
        with first_rank_first():
            kept = self._cache.made(asked) if rank() else self._cache.rows(asked, source)
        if kept.remark and self._current is None:  # said of the first view, said for all
            source.note(f"teacher {source.network.name} answers from a lossy cache: {kept.remark}")
        self._rows = {name: values.to(self._index.device) for name, values in kept.rows.items()}
        self._classes = source.network.num_classes
        self.forwards += kept.shown
