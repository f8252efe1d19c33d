"""Whether a network is right as often as it is confident."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec
from kdbench.metrics.base import Evaluation, collect


@dataclass(frozen=True)
class Bin:
    """Samples whose confidence lies in `(low, high]`.

    Attributes:
        low: Lower edge, excluded.
        high: Upper edge, included.
        count: Number of samples.
        confidence: Their mean confidence; ``None`` without samples.
        accuracy: The fraction that is right; ``None`` without samples.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram and its two summaries, in [0, 1]; NaN where the logits are.

    Attributes:
        ece: Expected calibration error: mean distance of accuracy and confidence, weighted by samples.
        mce: Maximum calibration error: the largest distance.
        bins: The diagram, from low confidence to high.
    """

    ece: float
    mce: float
    bins: tuple[Bin, ...]


def reliability(logits: Tensor, target: Tensor, bins: int = 15) -> Reliability:
    r"""Calibration of the top-1 prediction in bins :math:`(k/K, (k+1)/K]` of equal width.

    .. math:: \mathrm{ECE} = \sum_k \tfrac{n_k}{N} \, |\mathrm{acc}_k - \mathrm{conf}_k|, \qquad
        \mathrm{MCE} = \max_k |\mathrm{acc}_k - \mathrm{conf}_k|

    Args:
        logits: Unnormalised scores, or log-probabilities, `(N, C)`.
        target: Class of each sample, `(N,)` int64.
        bins: Number K of bins; errors over different numbers of bins do not compare.

    Source: Guo et al. 2017, arXiv:1706.04599, Sec. 2.
    Differs from: torchmetrics, whose bins include their lower edge; seen only by confidences that are an edge.
    """
    confidence, prediction = logits.double().softmax(dim=-1).max(dim=-1)
    right = (prediction == target).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=logits.device)
    place = torch.bucketize(confidence, edges[1:-1])
    count = place.bincount(minlength=bins)
    means = [value.new_zeros(bins).index_add_(0, place, value) / count.clamp(min=1) for value in (confidence, right)]
    distance = (means[1] - means[0]).abs()
    columns = (edges[:-1], edges[1:], count, *means)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return Reliability(
        ece=float((distance * count).sum() / count.sum()),
        mce=float(distance.max()),
        bins=tuple(Bin(low, high, n, *((conf, acc) if n else (None, None))) for low, high, n, conf, acc in rows),
    )


class Calibration(Evaluation):
    """Expected and maximum calibration error with the reliability diagram behind them.

    Args:
        bins: Number of bins of equal width.

    Raises:
        ConfigError: Fewer than one bin.
    """

    headline = "ece"

    def __init__(self, *, bins: int = 15) -> None:
        if bins < 1:
            raise ConfigError(f"eval.calibration.bins={bins}: at least 1 is needed")
        self.bins = bins

    def __call__(
        self,
        network: nn.Module,
        loader: Iterable[Batch],
        teachers: Sequence[nn.Module],
        data: DataSpec,
        *others: Iterable[Batch],
    ) -> dict[str, Any]:
        """``ece``, ``mce`` and ``bins`` as in :class:`Reliability`."""
        (logits,), target = collect([network], loader)
        return asdict(reliability(logits, target, self.bins))
