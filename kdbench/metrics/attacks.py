"""Accuracy under adversarial perturbations: FGSM and PGD in the maximum norm, on pixels in [0, 1]."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.core.attacks import fgsm, pgd
from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec
from kdbench.metrics._noise import SampleNoise
from kdbench.metrics.base import Evaluation, device_of, evaluating, first, nothing_to_evaluate, predict


class Attack(Evaluation):
    """Accuracy on attacked samples, for each radius.

    Args:
        name: The evaluation's name, for error lines.
        epsilons: Radii in 1/255 of the full range of a pixel.
        samples: Measure on the first so many; ``None`` for all.

    Raises:
        ConfigError: A number is out of its range.
    """

    version = 2
    headline = "acc"

    def __init__(self, name: str, epsilons: Sequence[float], samples: int | None) -> None:
        if not epsilons or not all(isinstance(each, int | float) and 0 < each <= 255 for each in epsilons):
            raise ConfigError(f"eval.{name}.epsilons={list(epsilons)}: radii above 0 are expected, in 1/255, e.g. [8]")
        if samples is not None and samples < 1:
            raise ConfigError(f"eval.{name}.samples={samples}: at least 1 is needed; null takes all")
        self.epsilons = tuple(map(float, epsilons))
        self.samples = samples

    @abstractmethod
    def attack(self, network: nn.Module, batch: Batch, epsilon: float) -> Tensor:
        """The attacked inputs; ``epsilon`` in units of the full range."""

    def __call__(
        self,
        network: nn.Module,
        loader: Iterable[Batch],
        teachers: Sequence[nn.Module],
        data: DataSpec,
        *others: Iterable[Batch],
    ) -> dict[str, Any]:
        """Accuracies in percent.

        Returns:
            ``samples``, ``clean_acc``, ``acc`` at the largest radius, ``attacks``: ``acc`` for each ``epsilon_255``.

        Raises:
            DataError: The loader yields nothing.
        """
        device, seen = device_of(network), 0
        right = torch.zeros(1 + len(self.epsilons), device=device)
        with evaluating(network):
            for given in first(loader, self.samples):
                batch = Batch(given.inputs.to(device), given.target.to(device), given.index.to(device))
                views = [batch.inputs, *(self.attack(network, batch, epsilon / 255) for epsilon in self.epsilons)]
                with torch.no_grad():
                    hits = [predict(network, view).argmax(dim=-1) == batch.target for view in views]
                right += torch.stack(hits).sum(dim=1)
                seen += len(batch.target)
        if not seen:
            raise nothing_to_evaluate()
        clean, *attacked = (100 * right / seen).tolist()
        rows = [{"epsilon_255": epsilon, "acc": acc} for epsilon, acc in zip(self.epsilons, attacked, strict=True)]
        strongest = max(rows, key=lambda row: row["epsilon_255"])
        return {"samples": seen, "clean_acc": clean, "acc": strongest["acc"], "attacks": rows}


class FGSM(Attack):
    """Accuracy under the fast gradient sign method; see :func:`fgsm`.

    Args:
        epsilons: Radii in 1/255 of the full range of a pixel.
        samples: Measure on the first so many; ``None`` for all.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(self, *, epsilons: Sequence[float] = (8.0,), samples: int | None = None) -> None:
        super().__init__("fgsm", epsilons, samples)

    def attack(self, network: nn.Module, batch: Batch, epsilon: float) -> Tensor:
        """One step of the full radius."""
        return fgsm(partial(predict, network), batch.inputs, batch.target, epsilon=epsilon)


class PGD(Attack):
    """Accuracy under projected gradient ascent from one random start, uniform in the box; see :func:`pgd`.

    Args:
        epsilons: Radii in 1/255 of the full range of a pixel.
        step: Length of a step as a fraction of the radius.
        steps: Number of steps.
        seed: Of the start; a sample's start depends on nothing but this and its index.
        samples: Measure on the first so many; ``None`` for all.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(
        self,
        *,
        epsilons: Sequence[float] = (8.0,),
        step: float = 0.25,
        steps: int = 20,
        seed: int = 0,
        samples: int | None = None,
    ) -> None:
        super().__init__("pgd", epsilons, samples)
        if step <= 0 or steps < 1:
            raise ConfigError(f"eval.pgd: step={step}, steps={steps}: a step above 0 and at least 1 of them are needed")
        self.step, self.steps, self.seed = step, steps, seed

    def attack(self, network: nn.Module, batch: Batch, epsilon: float) -> Tensor:
        """The point after the last step."""
        start = epsilon * (2 * SampleNoise(batch.index, self.seed, "pgd").uniform(batch.inputs) - 1)
        return pgd(partial(predict, network), batch.inputs, batch.target, epsilon=epsilon, step=self.step * epsilon,
                   steps=self.steps, start=start)  # fmt: skip
