"""Whether a network is less sure of samples that are none of its classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec
from kdbench.metrics._noise import SampleNoise
from kdbench.metrics.base import Evaluation, Samples, collect

NOISE = "noise"


def auroc(inside: Tensor, outside: Tensor) -> float:
    r"""Probability that a score from inside exceeds one from outside.

    .. math:: P(s > o) + \tfrac12 P(s = o)

    Args:
        inside: Scores `(N,)`.
        outside: Scores `(M,)`.

    Returns:
        In [0, 1]; a half where the scores say nothing.
    """
    ordered = outside.sort().values
    below = torch.searchsorted(ordered, inside) + torch.searchsorted(ordered, inside, right=True)
    return below.double().mean().item() / (2 * len(outside))


def fpr_at(inside: Tensor, outside: Tensor, share: float = 0.95) -> float:
    """Fraction of the outside scores that reach the highest threshold that ``share`` of the inside scores reach.

    Args:
        inside: Scores `(N,)`.
        outside: Scores `(M,)`.
        share: In (0, 1].
    """
    threshold = inside.sort(descending=True).values[max(round(share * len(inside)), 1) - 1]
    return (outside >= threshold).double().mean().item()


def scores(logits: Tensor) -> dict[str, Tensor]:
    r"""How sure a network is, higher for samples it knows.

    .. math:: s_\mathrm{softmax} = \log \frac{p}{1 - p} \text{ with } p = \max_c \mathrm{softmax}(z)_c, \qquad
        s_\mathrm{energy} = \log \sum_c e^{z_c}

    The log-odds have the order of :math:`p`, and keep apart what would round to probability 1.

    Args:
        logits: `(N, C)`.

    Returns:
        ``max_softmax`` and ``energy`` (negative free energy at temperature 1), each `(N,)` float64.

    Source: Hendrycks and Gimpel 2017, arXiv:1610.02136, Sec. 2; Liu et al. 2020, arXiv:2010.03759, Eq. 4.
    """
    ordered = logits.double().sort(dim=-1, descending=True).values
    odds = ordered[:, 0] - ordered[:, 1:].logsumexp(dim=-1)
    return {"max_softmax": odds, "energy": ordered.logsumexp(dim=-1)}


class OOD(Evaluation):
    """Detection of samples from elsewhere by the network's own confidence.

    Args:
        dataset: Where they come from: ``noise`` for pixels uniform in [0, 1], as many as there are samples, or a
            dataset, whose test images are brought to the network's size and channels.
        root: The folder of its files; ``None`` for the usual places.
        seed: Of the noise.
    """

    version = 2
    headline = "auroc"

    def __init__(self, *, dataset: str = NOISE, root: str | None = None, seed: int = 0) -> None:
        self.dataset, self.seed = dataset, seed
        self.also_reads = () if dataset == NOISE else (Samples("test", dataset, root),)

    def check(self, network: nn.Module, teachers: Sequence[nn.Module], data: DataSpec) -> None:
        """Refuses the network's own dataset."""
        if self.dataset == data.name:
            raise ConfigError(f"eval.ood.dataset={self.dataset}: the network was trained on it; take another, or noise")

    def __call__(
        self,
        network: nn.Module,
        loader: Iterable[Batch],
        teachers: Sequence[nn.Module],
        data: DataSpec,
        *others: Iterable[Batch],
    ) -> dict[str, Any]:
        """How well each score tells both kinds of samples apart.

        Returns:
            ``inside``, ``outside``: numbers of samples. ``scores``: for each its ``auroc``, in [0, 1], and ``fpr95``,
            the samples from elsewhere in percent that pass where 95 % of the network's own do. ``auroc``: that of the
            first score, the largest probability.

        Raises:
            DataError: A loader yields nothing.
        """
        (known,), _ = collect([network], loader)
        (unknown,), _ = collect([network], others[0] if others else self._noise(loader))
        outside = scores(unknown)
        rows = [
            {"score": name, "auroc": auroc(inside, outside[name]), "fpr95": 100 * fpr_at(inside, outside[name])}
            for name, inside in scores(known).items()
        ]
        return {"inside": len(known), "outside": len(unknown), "auroc": rows[0]["auroc"], "scores": rows}

    def _noise(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        for batch in loader:
            yield batch._replace(inputs=SampleNoise(batch.index, self.seed, "ood").uniform(batch.inputs))
