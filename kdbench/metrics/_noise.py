"""Random numbers of a sample that depend on its index alone, not on the batch it comes in or the order of batches."""

from __future__ import annotations

import torch
from torch import Tensor

from kdbench.core.seeds import derive_seed


class SampleNoise:
    """A stream of random numbers for each sample of a batch, drawn on the CPU: the same for every device.

    Args:
        index: Position of each sample in its split, `(B,)` int64.
        seed: The user's seed.
        names: What the numbers are for; streams of different names are independent.
    """

    def __init__(self, index: Tensor, seed: int, *names: object) -> None:
        self._streams = [torch.Generator().manual_seed(derive_seed(seed, *names, number)) for number in index.tolist()]

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform in [0, 1), of the shape and on the device of ``like``, `(B, ...)`."""
        return torch.stack([torch.rand(like.shape[1:], generator=stream) for stream in self._streams]).to(like)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal, of the shape and on the device of ``like``, `(B, ...)`."""
        return torch.stack([torch.randn(like.shape[1:], generator=stream) for stream in self._streams]).to(like)

    def poisson(self, rate: Tensor) -> Tensor:
        """Counts with the expectation ``rate``, `(B, ...)`, not negative."""
        rates = zip(rate.cpu(), self._streams, strict=True)
        return torch.stack([torch.poisson(each, generator=stream) for each, stream in rates]).to(rate)
