"""One training on several devices: which rows of a batch are whose, and how all of them meet again with gradient.

Each rank runs the networks on its own rows, and then has the same loss of the whole batch as every other rank.
Gradients of what lies before that meeting are partial sums, which :class:`_Gather` scales by the number of ranks; those
of what lies behind it are whole. So their average over the ranks, which DDP and FSDP take, is that of one process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from kdbench.core.types import Batch, ModelOutput

LEAST_ROWS = 2  # of each rank: a BatchNorm over vectors needs two


def world() -> int:
    """Number of ranks of this training; 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this rank, from 0; rank 0 alone writes and measures."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def wait_for_all() -> None:
    """Returns when every rank has come here."""
    if world() > 1:
        agreed(0)


@contextmanager
def first_rank_first() -> Iterator[None]:
    """Lets rank 0 go through the body of a ``with`` statement before the others do."""
    if rank():
        wait_for_all()
    yield
    if not rank():
        wait_for_all()


def agreed(*numbers: int) -> tuple[int, ...]:
    """The largest that any rank says, of each of ``numbers``; through the CPU, so that no device is waited for."""
    if world() == 1:
        return numbers
    said = torch.tensor(numbers)
    dist.all_reduce(said, op=dist.ReduceOp.MAX)
    return tuple(said.tolist())


class Share:
    """The part of one batch that is this rank's: a block of rows, so that the ranks in their order give the batch.

    A batch too small to leave two rows to each rank is computed by all of them: their gradients are then equal.

    Args:
        batch: The same on every rank.
        synchronised: Whether BatchNorm takes its statistics over all ranks.

    Attributes:
        batch: The whole batch.
        own: This rank's rows of it.
    """

    def __init__(self, batch: Batch, *, synchronised: bool = True) -> None:
        size, ranks = len(batch.target), world()
        self.batch = self.own = batch
        self.divided = ranks > 1 and size >= LEAST_ROWS * ranks
        self._synchronised = synchronised
        self._gathered: dict[Tensor, Tensor] = {}
        if self.divided:
            self._sizes = [size // ranks + (number < size % ranks) for number in range(ranks)]
            start = sum(self._sizes[: rank()])
            self.own = batch.rows(slice(start, start + self._sizes[rank()]))

    def statistics(self) -> AbstractContextManager[object]:
        """Within it, BatchNorm trains on this rank's rows with the statistics that the user wants."""
        return _SynchronisedBatchNorm() if self.divided and self._synchronised else nullcontext()

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks, in the order of the batch, from this rank's; gradient flows to all.

        Args:
            rows: `(B_r, ...)`, with the B_r that add up to B.

        Returns:
            `(B, ...)`, the same on every rank; ``rows`` itself where the batch is not divided.
        """
        if not self.divided:
            return rows
        if rows not in self._gathered:  # what several criteria read travels once
            self._gathered[rows] = _Gather.apply(rows, self._sizes)  # pyright: ignore[reportArgumentType]
        return self._gathered[rows]

    def gather_output(self, output: ModelOutput) -> ModelOutput:
        """:meth:`gather` of everything that a network gave."""
        features = {name: self.gather(rows) for name, rows in output.features.items()}
        second = None if output.second is None else self.gather_output(output.second)
        return output._replace(logits=self.gather(output.logits), features=features, second=second)

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the batch, from the mean over this rank's rows; the same scalar on every rank."""
        return _Sum.apply(value * (len(self.own.target) / len(self.batch.target))) if self.divided else value


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        """Blocks are padded to the longest on the way: not every backend takes unequal ones."""
        ctx.sizes = sizes
        block = rows.new_zeros(max(sizes), *rows.shape[1:])
        block[: len(rows)] = rows
        blocks = [torch.empty_like(block) for _ in sizes]
        dist.all_gather(blocks, block)
        return torch.cat([each[:size] for each, size in zip(blocks, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradients[0].split(ctx.sizes)[rank()] * len(ctx.sizes), None


class _Sum(torch.autograd.Function):
    """Sum over ranks of a part of the loss that each computes alone; every rank then has the whole."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradients[0] * world()


class _Exchange(torch.autograd.Function):
    """What every rank has, stacked; before the ranks meet in a loss, so that each adds to the gradient of all."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        values = [torch.empty_like(value) for _ in range(world())]
        dist.all_gather(values, value.contiguous())
        return torch.stack(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[rank()]


def batch_norm(
    rows: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    r""":func:`torch.nn.functional.batch_norm` with the statistics of all ranks' rows, weighted by their numbers.

    .. math:: \mu = \sum_r \tfrac{n_r}{n} \mu_r, \qquad
        \sigma^2 = \sum_r \tfrac{n_r}{n} \bigl(\sigma_r^2 + (\mu_r - \mu)^2\bigr)

    :class:`torch.nn.SyncBatchNorm` does the same on GPUs only.

    Args:
        rows: `(B_r, C, ...)`.
        running_mean: `(C,)`, moved towards the mean, as is
        running_var: `(C,)`, towards the unbiased variance.
        weight: `(C,)`.
        bias: `(C,)`.
        training: Whether the batch's statistics are used; otherwise nothing differs from PyTorch's.
        momentum: Of the running statistics.
        eps: Added to the variance.

    Returns:
        Shape and type of ``rows``.
    """
    if not training:
        return F.batch_norm(rows, running_mean, running_var, weight, bias, False, momentum, eps)
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    axes = [axis for axis in range(rows.dim()) if axis != 1]
    var, mean = torch.var_mean(wide, axes, correction=0)
    count = mean.new_full((1,), rows.numel() // rows.shape[1])
    counts, means, variances = _Exchange.apply(torch.cat([count, mean, var])).split(  # pyright: ignore[reportAttributeAccessIssue]
        [1, len(mean), len(mean)], dim=1
    )
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    var = (counts * (variances + (means - mean).square())).sum(0) / total
    with torch.no_grad():
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * total / (total - 1)).to(running_var.dtype), momentum)
    shape = [-1 if axis == 1 else 1 for axis in range(rows.dim())]
    scale = (var + eps).rsqrt() * (1.0 if weight is None else weight)
    shift = (0.0 if bias is None else bias) - mean * scale
    return (wide * scale.reshape(shape) + shift.reshape(shape)).to(rows.dtype)


class _SynchronisedBatchNorm(TorchFunctionMode):
    """Every BatchNorm, of whatever class, goes through one function of PyTorch: so no network is rebuilt."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))
