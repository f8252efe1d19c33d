"""What an evaluation is, and how networks are run to be measured."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from kdbench.core.errors import DataError
from kdbench.core.types import Batch, DataSpec


class Samples(NamedTuple):
    """Samples that an evaluation reads beside those it measures on.

    Attributes:
        split: Of the dataset; as they are, without augmentation.
        dataset: A dataset's name, fitted to the network's input; ``None`` for the one it was trained on.
        root: The folder of its files; ``None`` for the usual places.
    """

    split: Literal["train", "test"]
    dataset: str | None = None
    root: str | None = None


class Evaluation(ABC):
    """One more measurement of a trained network, chosen by ``eval=[NAME]``; its options are its constructor's.

    Attributes:
        version: Bumped whenever the numbers change.
        headline: The key of its result that tables show; empty for none.
        also_reads: Further samples it needs; it is called with a loader of each, in this order.
    """

    version: ClassVar[int] = 1
    headline: ClassVar[str] = ""
    also_reads: tuple[Samples, ...] = ()

    def check(self, network: nn.Module, teachers: Sequence[nn.Module], data: DataSpec) -> None:  # noqa: B027 (optional)
        """Called for every chosen evaluation before the first is made.

        Raises:
            ConfigError: This cannot be measured of this network.
        """

    @abstractmethod
    def __call__(
        self,
        network: nn.Module,
        loader: Iterable[Batch],
        teachers: Sequence[nn.Module],
        data: DataSpec,
        *others: Iterable[Batch],
    ) -> dict[str, Any]:
        """Measures ``network`` and leaves it as it was.

        Args:
            network: What is measured, on the device it is to be measured on.
            loader: The samples to measure on, in any order.
            teachers: The networks that taught it, on the same device; may be empty.
            data: Classes and shape of the samples.
            others: Loaders of what :attr:`also_reads` names.

        Returns:
            Ready for JSON: numbers, texts, lists and dicts, no NaN of our own making.
        """


def device_of(network: nn.Module) -> torch.device:
    """Where the network's first parameter or buffer is; the CPU for a network without any."""
    first = next(chain(network.parameters(), network.buffers()), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Puts networks into eval mode, and every single module back into its own mode afterwards."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def predict(network: nn.Module, inputs: Tensor, autocast: torch.dtype | None = None) -> Tensor:
    """Logits in float32, `(B, C)`, computed in ``autocast`` precision where one is given."""
    with torch.autocast(inputs.device.type, dtype=autocast, enabled=autocast is not None):
        return network(inputs).float()


def first(loader: Iterable[Batch], count: int | None) -> Iterator[Batch]:
    """The first ``count`` samples of ``loader``, at least 1, the last batch cut to fit; all of them for ``None``."""
    left = math.inf if count is None else count
    for batch in loader:
        if left < len(batch.target):
            batch = Batch(batch.inputs[: int(left)], batch.target[: int(left)], batch.index[: int(left)])
        yield batch
        left -= len(batch.target)
        if left <= 0:
            return


def nothing_to_evaluate() -> DataError:
    """The error for a loader that yields no batch."""
    return DataError("nothing to evaluate: the loader yields no batch; choose a split that holds samples")


@torch.inference_mode()
def collect(networks: Sequence[nn.Module], loader: Iterable[Batch]) -> tuple[list[Tensor], Tensor]:
    """Every network's logits on every sample.

    Returns:
        One `(N, C)` float32 tensor for each network, and the targets `(N,)`; on the networks' device.

    Raises:
        DataError: The loader yields nothing.
    """
    logits: list[list[Tensor]] = []
    targets: list[Tensor] = []
    device = device_of(networks[0])
    with evaluating(*networks):
        for batch in loader:
            logits.append([predict(network, batch.inputs.to(device)) for network in networks])
            targets.append(batch.target.to(device))
    if not targets:
        raise nothing_to_evaluate()
    return [torch.cat(parts) for parts in zip(*logits, strict=True)], torch.cat(targets)
