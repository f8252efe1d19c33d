"""Which images teachers were asked about, each counted once: in whatever view, how often, and by how many teachers."""

from __future__ import annotations

import torch
from torch import Tensor

_PATIENCE = 1024  # batches between two looks for repetitions: each look waits for the device


class Queried:
    """A set of images that grows with every batch.

    Args:
        index: Those to begin with, by ``Batch.index``, int64; ``None`` for none.
    """

    def __init__(self, index: Tensor | None = None) -> None:
        self._parts = [] if index is None else [index]

    def add(self, index: Tensor) -> None:
        """Notes the images of a batch, `(B,)` int64."""
        self._parts.append(index)
        if len(self._parts) > _PATIENCE:
            self._parts = [self.index]

    @property
    def index(self) -> Tensor:
        """All of them, ascending, on the CPU, `(N,)` int64."""
        if not self._parts:
            return torch.empty(0, dtype=torch.int64)
        device = self._parts[-1].device  # after a resume the first part is on the CPU
        return torch.cat([part.to(device) for part in self._parts]).unique().cpu()

    def __len__(self) -> int:
        return len(self.index)
