"""Centred kernel alignment: how alike two networks arrange the same samples, whatever their widths."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LEAST = 4  # samples for which the unbiased estimate exists


def hsic(first: Tensor, second: Tensor) -> Tensor:
    r"""The unbiased estimate of the Hilbert-Schmidt independence criterion.

    .. math:: \frac1{n(n-3)} \Bigl[ \mathrm{tr}(\tilde K \tilde L)
        + \frac{1^\top \tilde K 1 \; 1^\top \tilde L 1}{(n-1)(n-2)} - \frac{2}{n-2} 1^\top \tilde K \tilde L 1 \Bigr]

    with the diagonals of :math:`\tilde K, \tilde L` set to zero.

    Args:
        first: Kernel matrix K, symmetric, `(n, n)`, n at least 4.
        second: Kernel matrix L, likewise.

    Returns:
        Scalar; may be negative for independent features.

    Source: Song et al. 2012, JMLR 13, Eq. 5; Nguyen et al. 2021, arXiv:2010.15327, Eq. 3.
    """
    n = len(first)
    first, second = (kernel - kernel.diagonal().diag() for kernel in (first, second))
    cross = first.sum(dim=0) @ second.sum(dim=0)
    return ((first * second).sum() + first.sum() * second.sum() / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)) / (
        n * (n - 3)
    )


def _kernel(features: Tensor) -> Tensor:
    flat = features.flatten(1).float()
    flat = flat - flat.mean(dim=0)  # changes no estimate, and keeps float32 exact enough
    return (flat @ flat.T).double()


class LinearCKA:
    r"""Linear CKA estimated over minibatches.

    .. math:: \frac{\sum_b \mathrm{HSIC}(K_b, L_b)}
        {\sqrt{\sum_b \mathrm{HSIC}(K_b, K_b)} \sqrt{\sum_b \mathrm{HSIC}(L_b, L_b)}}

    with kernels :math:`X X^\top` of flattened features. Every HSIC is unbiased, so the value hardly depends on the
    batch size, which is not true of the usual, biased one. Batches of fewer than 4 samples are passed over.

    Source: Kornblith et al. 2019, arXiv:1905.00414; Nguyen et al. 2021, arXiv:2010.15327, Eq. 2.
    """

    def __init__(self) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64)

    def update(self, first: Tensor, second: Tensor) -> None:
        """Adds a batch of features `(B, ...)` of each network, of the same samples."""
        if len(first) < _LEAST:
            return
        own, other = _kernel(first), _kernel(second)
        self._sums += torch.stack([hsic(own, other), hsic(own, own), hsic(other, other)]).cpu()

    def compute(self) -> float | None:
        """1 for features that are equal up to rotation and scale; ``None`` where one side never varies."""
        cross, own, other = self._sums.tolist()
        return cross / math.sqrt(own * other) if own > 0 and other > 0 else None
