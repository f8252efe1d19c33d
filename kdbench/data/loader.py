"""Batches of a split; where a training loader stands is a function of the global step."""

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
from kdbench.data.stream import Stream
from kdbench.data.views import View, apply_views

_SECOND, _MIX = 1000, 1001  # streams of a sample's key, beyond those of all views


def _pixels(images: Tensor, memory_format: torch.memory_format) -> Tensor:
    """uint8 to float32 in [0, 1]."""
    return images.to(torch.float32, memory_format=memory_format).div_(255)


def _images_at(images: Tensor | Stream, positions: Tensor, looks: Sequence[Tensor] = ()) -> list[Tensor]:
    """Images before their views: one batch for each look where photos are cropped, else one for all looks."""
    if isinstance(images, Stream):
        return [batch.to(positions.device) for batch in images.take(positions, looks)]
    # Channels last, as they lie in memory, index_select copies whole images; an indexing expression copies pixels.
    return [images.permute(0, 2, 3, 1).index_select(0, positions).permute(0, 3, 1, 2)]


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
        workers: Processes that decode photos which are not in memory; 0 decodes them in this one.

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
        workers: int = 0,
    ) -> None:
        self.seconds = 0.0
        self._workers = workers
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
        size = self._batch_size
        chosen = [order[number * size : (number + 1) * size] for number in range(offset, len(self))]
        for positions, images in zip(chosen, self._fetched(chosen, epoch), strict=True):
            batch = self._mixed(self._batch(images, positions, epoch), positions, epoch)
            self.seconds += perf_counter() - started
            yield batch
            started = perf_counter()

    def _fetched(self, chosen: Sequence[Tensor], epoch: int) -> Iterator[list[Tensor]]:
        images = self._split.images
        if not isinstance(images, Stream):
            return (_images_at(images, positions) for positions in chosen)
        asked = (images.request(positions, self._looks(positions, epoch)) for positions in chosen)
        return images.fetch(asked, workers=self._workers, device=self._split.index.device)

    def at(self, positions: Tensor, epoch: int) -> Batch:
        """The samples at these positions of the split, as they look in ``epoch``, not mixed with others."""
        return self._batch(_images_at(self._split.images, positions, self._looks(positions, epoch)), positions, epoch)

    def _looks(self, positions: Tensor, epoch: int) -> list[Tensor]:
        keys = self._keys(epoch).index_select(0, positions)
        return [keys, fold(keys, _SECOND)] if self.two_views else [keys]

    def _batch(self, images: Sequence[Tensor], positions: Tensor, epoch: int) -> Batch:
        looks = self._looks(positions, epoch)
        each = images if len(images) == len(looks) else [*images] * len(looks)
        pairs = zip(each, looks, strict=True)
        views = [_pixels(apply_views(self._views, batch, look), self._memory_format) for batch, look in pairs]
        second = views[1] if self.two_views else None
        labels, index = (known.index_select(0, positions) for known in (self._split.labels, self._split.index))
        return Batch(views[0], labels, index, second)

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
        workers: Processes that decode photos which are not in memory; 0 decodes them in this one.
    """

    def __init__(
        self,
        split: ImageSplit,
        batch_size: int,
        *,
        memory_format: torch.memory_format = torch.contiguous_format,
        device: torch.device | str = "cpu",
        workers: int = 0,
    ) -> None:
        self._workers = workers
        self._split = split.to(device)
        self._batch_size = batch_size
        self._memory_format = memory_format

    def __len__(self) -> int:
        """Batches in all."""
        return math.ceil(len(self._split) / self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        split, size = self._split, self._batch_size
        ranges = [slice(start, min(start + size, len(split))) for start in range(0, len(split), size)]
        if not isinstance(split.images, Stream):
            yield from map(self.at, ranges)
            return
        asked = (split.images.request(torch.arange(part.start, part.stop), ()) for part in ranges)
        fetched = split.images.fetch(asked, workers=self._workers, device=split.index.device)
        for part, (images,) in zip(ranges, fetched, strict=True):
            yield self._batch(images, part)

    def at(self, positions: slice | Tensor) -> Batch:
        """The samples at these positions of the split."""
        images = self._split.images
        if isinstance(images, Stream):
            chosen = torch.arange(len(self._split), device=self._split.index.device)[positions]
            return self._batch(_images_at(images, chosen)[0], positions)
        return self._batch(images[positions], positions)

    def _batch(self, images: Tensor, positions: slice | Tensor) -> Batch:
        return Batch(_pixels(images, self._memory_format), self._split.labels[positions], self._split.index[positions])
