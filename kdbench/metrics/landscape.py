"""The loss around a network's weights, on a plane of two random directions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from kdbench.core.errors import ConfigError
from kdbench.core.signals import raise_if_stopped
from kdbench.core.types import Batch, DataSpec
from kdbench.metrics.base import Evaluation, device_of, evaluating, first, nothing_to_evaluate

Direction = Mapping[str, Tensor]  # a step for each parameter, by its name


def filter_normalised(network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    r"""A random direction in which every filter moves by its own norm; vectors do not move.

    .. math:: d_{i,j} \leftarrow \frac{d_{i,j}}{\|d_{i,j}\|} \, \|\theta_{i,j}\|

    for filter j of layer i, drawn from a standard normal distribution: the rows of a linear layer are its filters, and
    parameters of one dimension, which are biases and those of normalisation layers, get zeros.

    Args:
        network: Whose weights are the centre.
        generator: On the CPU.

    Source: Li et al. 2018, arXiv:1712.09913, Sec. 4; zeros as in Sec. 4.1 and the released ``--xignore biasbn``.
    """
    direction = {}
    for name, weight in network.named_parameters():
        drawn = torch.randn(weight.shape, generator=generator).to(weight)
        if weight.dim() < 2:
            direction[name] = torch.zeros_like(weight)
            continue
        ratio = _norms(weight.detach()) / _norms(drawn).clamp(min=1e-10)
        direction[name] = drawn * ratio.reshape(-1, *[1] * (weight.dim() - 1))
    return direction


def _norms(weight: Tensor) -> Tensor:
    return weight.flatten(1).norm(dim=1)


@contextmanager
def _still(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The parameters in eval mode; without gradients."""
    with evaluating(network), torch.no_grad():
        yield dict(network.named_parameters())


class Landscape(Evaluation):
    """Loss on a square grid around the weights, and how much it rises on a ring.

    Both directions are filter-normalised and depend on the seed and the shapes alone: networks of one architecture
    are cut in the same way. BatchNorm keeps the statistics of the centre.

    Source: Li et al. 2018, arXiv:1712.09913, Sec. 4.
    Differs from: the paper in the ring, which it does not have: it compares contours by eye.

    Args:
        points: Along each side of the grid; odd, so that the centre is one.
        radius: Half a side, in norms of the filters.
        ring: Radius of the ring, same unit.
        seed: Of the directions.
        samples: Measure on the first so many; ``None`` for all.

    Raises:
        ConfigError: A number is out of its range.
    """

    headline = "rise"
    _angles = 16  # on the ring, evenly spaced

    def __init__(
        self, *, points: int = 11, radius: float = 1.0, ring: float = 0.5, seed: int = 0, samples: int | None = 1000
    ) -> None:
        if points < 3 or points % 2 == 0:
            raise ConfigError(f"eval.landscape.points={points}: an odd number from 3 is expected: the centre is one")
        if radius <= 0 or ring <= 0:
            raise ConfigError(f"eval.landscape: radius={radius}, ring={ring}: both must be above 0")
        if samples is not None and samples < 1:
            raise ConfigError(f"eval.landscape.samples={samples}: at least 1 is needed; null takes all")
        self.points, self.radius, self.ring, self.seed, self.samples = points, radius, ring, seed, samples

    def check(self, network: nn.Module, teachers: Sequence[nn.Module], data: DataSpec) -> None:
        """Refuses a network without any filter."""
        if all(weight.dim() < 2 for weight in network.parameters()):
            raise ConfigError("eval=[landscape]: this network has no weights of two dimensions to move")

    def __call__(
        self,
        network: nn.Module,
        loader: Iterable[Batch],
        teachers: Sequence[nn.Module],
        data: DataSpec,
        *others: Iterable[Batch],
    ) -> dict[str, Any]:
        """Mean cross-entropies in nats; ``None`` where one is not finite.

        Returns:
            ``samples``; ``loss`` at the centre; ``rise``, the mean over 16 even angles of the loss on the ring, minus
            that at the centre: the smaller, the flatter; ``places``, the coordinates along each side; ``surface``, a
            row of losses for each place along the second direction.

        Raises:
            DataError: The loader yields nothing.
        """
        device = device_of(network)
        batches = [(batch.inputs.to(device), batch.target.to(device)) for batch in first(loader, self.samples)]
        if not batches:
            raise nothing_to_evaluate()
        generator = torch.Generator().manual_seed(self.seed)
        along, across = filter_normalised(network, generator), filter_normalised(network, generator)

        with _still(network) as centre:

            def loss(x: float, y: float) -> float:
                raise_if_stopped()
                moved = {name: weight + x * along[name] + y * across[name] for name, weight in centre.items()}
                return _loss(network, moved, batches)

            places = [self.radius * (2 * k / (self.points - 1) - 1) for k in range(self.points)]
            surface = [[_finite(loss(x, y)) for x in places] for y in places]
            turns = [2 * math.pi * k / self._angles for k in range(self._angles)]
            ring = [loss(self.ring * math.cos(turn), self.ring * math.sin(turn)) for turn in turns]
            bottom = loss(0.0, 0.0)
        samples = sum(len(target) for _, target in batches)
        rise = sum(ring) / len(ring) - bottom
        return {"samples": samples, "loss": _finite(bottom), "rise": _finite(rise), "places": places,
                "surface": surface}  # fmt: skip


def _loss(network: nn.Module, weights: Direction, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    sums = [cross_entropy(functional_call(network, dict(weights), (inputs,)).double(), target, reduction="sum")
            for inputs, target in batches]  # fmt: skip
    return torch.stack(sums).sum().item() / sum(len(target) for _, target in batches)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
