"""Batches of a split held in memory; where a training loader stands is a function of the global step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from time import perf_counter

import torch
from torch import Tensor

from kdbench.core.seeds import derive_seed
from kdbench.core.types import Batch
from kdbench.data.catalog import steps_per_epoch
from kdbench.data.counter import fold, sample_keys, shuffled
from kdbench.data.load import ImageSplit
from kdbench.data.mixing import Mixing, mix_batch
from kdbench.data.views import View, apply_views

_SECOND, _MIX = 1000, 1001  # streams of a sample's key, beyond those of all views


def _pixels(images: Tensor, memory_format: torch.memory_format) -> Tensor:
    """uint8 to float32 in [0, 1]."""
    return images.to(torch.float32, memory_format=memory_format).div_(255)


class TrainLoader:
    """One epoch of shuffled, augmented batches per iteration.

    The order of an epoch is a function of (``seed``, epoch), the view of a sample of (``view_seed``, epoch, index):
    after :meth:`seek` a training goes on exactly as if it had never stopped, also in the middle of an epoch.

    A last batch of one sample is left out: BatchNorm cannot normalise it.

    Args:
        split: What to train on.
        batch_size: Samples per batch; the last batch of an epoch may have fewer.
        seed: Of the order.
        views: From :func:`kdbench.data.views.make_views`.
        mixes: From :func:`kdbench.data.mixing.make_mixes`.
        two_views: Whether batches have a second view of each sample.
        view_seed: Of the views; ``None`` takes ``seed``.
        limit_batches: At most so many batches per epoch; ``None`` for all.
        cycle: Views of each sample, shown in turn; ``None`` for a fresh one in every epoch.
        memory_format: Layout of the inputs.
        device: Where the split is kept and batches are made.

    Attributes:
        two_views: As given.
        seconds: Time spent making batches so far.

    Raises:
        ConfigError: Not one batch can be made.
    """

    def __init__(
        self,
        split: ImageSplit,
        batch_size: int,
        *,
        seed: int,
        views: Sequence[View] = (),
        mixes: Sequence[Mixing] = (),
        two_views: bool = False,
        view_seed: int | None = None,
        limit_batches: int | None = None,
        cycle: int | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
        device: torch.device | str = "cpu",
    ) -> None:
        self.seconds = 0.0
        self._split = split.to(device)
        self._batch_size = batch_size
        self._views = tuple(views)
        self._mixes = tuple(mixes)
        self.two_views = two_views
        self._order_seed = derive_seed(seed, "order")
        self._view_seed = derive_seed(seed if view_seed is None else view_seed, "views")
        self._cycle = cycle
        self._memory_format = memory_format
        self._length = steps_per_epoch(len(split), batch_size, limit_batches)
        self._step = 0
        self._keys_of, self._epoch_keys = -1, split.index  # of no epoch yet

    def __len__(self) -> int:
        """Steps per epoch."""
        return self._length

    @property
    def index(self) -> Tensor:
        """Position of each sample in the full training set, ascending, `(N,)` int64."""
        return self._split.index

    def seek(self, step: int) -> None:
        """Lets the next iteration start at global step ``step``: in epoch ``step // len``, at batch ``step % len``.

        That iteration ends with its epoch; the ones after it are the epochs that follow.
        """
        self._step = step

    def __iter__(self) -> Iterator[Batch]:
        epoch, offset = divmod(self._step, len(self))
        # Moved on at once, not batch by batch: whoever fetches ahead, or stops early, still gets the next epoch next.
        self._step = (epoch + 1) * len(self)
        started = perf_counter()
        order = shuffled(self._order_seed, epoch, self._split.index)
        for number in range(offset, len(self)):
            positions = order[number * self._batch_size : (number + 1) * self._batch_size]
            batch = self._mixed(self.at(positions, epoch), positions, epoch)
            self.seconds += perf_counter() - started
            yield batch
            started = perf_counter()

    def at(self, positions: Tensor, epoch: int) -> Batch:
        """The samples at these positions of the split, as they look in ``epoch``, not mixed with others."""
        # Channels last, as they lie in memory, index_select copies whole images; an indexing expression copies pixels.
        images = self._split.images.permute(0, 2, 3, 1).index_select(0, positions).permute(0, 3, 1, 2)
        keys = self._keys(epoch)[positions]
        looks = [keys, fold(keys, _SECOND)] if self.two_views else [keys]
        views = [_pixels(apply_views(self._views, images, look), self._memory_format) for look in looks]
        second = views[1] if self.two_views else None
        return Batch(views[0], self._split.labels[positions], self._split.index[positions], second)

    def _mixed(self, batch: Batch, positions: Tensor, epoch: int) -> Batch:
        return mix_batch(self._mixes, batch, fold(self._keys(epoch)[positions], _MIX)) if self._mixes else batch

    def _keys(self, epoch: int) -> Tensor:
        """Of every sample in an epoch, made once for all its batches."""
        epoch = epoch if self._cycle is None else epoch % self._cycle
        if epoch != self._keys_of:
            self._keys_of, self._epoch_keys = epoch, sample_keys(self._view_seed, epoch, self._split.index)
        return self._epoch_keys


class EvalLoader:
    """All samples of a split in their order, as they are.

    Args:
        split: What to measure on.
        batch_size: Samples per batch; the last may have fewer.
        memory_format: Layout of the inputs.
        device: Where the split is kept and batches are made.
    """

    def __init__(
        self,
        split: ImageSplit,
        batch_size: int,
        *,
        memory_format: torch.memory_format = torch.contiguous_format,
        device: torch.device | str = "cpu",
    ) -> None:
        self._split = split.to(device)
        self._batch_size = batch_size
        self._memory_format = memory_format

    def __len__(self) -> int:
        """Batches in all."""
        return math.ceil(len(self._split) / self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self._split), self._batch_size):
            yield self.at(slice(start, start + self._batch_size))

    def at(self, positions: slice | Tensor) -> Batch:
        """The samples at these positions of the split."""
        inputs = _pixels(self._split.images[positions], self._memory_format)
        return Batch(inputs, self._split.labels[positions], self._split.index[positions])
