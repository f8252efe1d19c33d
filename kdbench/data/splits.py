"""Stratified, seeded choice of samples: validation sets, smaller training sets, the test set of digits."""

import numpy as np
import torch
from numpy.typing import NDArray

from kdbench.core.seeds import derive_seed
from kdbench.data.counter import shuffled


def _apportion(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Splits ``count`` over classes in proportion to ``sizes`` by largest remainder, in exact integers."""
    shares, remainders = np.divmod(sizes * count, sizes.sum())
    largest = np.argsort(-remainders, kind="stable")
    shares[largest[: count - shares.sum()]] += 1
    return shares


def choose(labels: NDArray[np.int64], count: int, *, seed: int, stream: str) -> NDArray[np.bool_]:
    """Marks ``count`` samples, from each class its share.

    Within a class the samples with the lowest hash of (seed, stream, position) are taken: the same ones on every
    machine and with every version of NumPy and torch.

    Args:
        labels: Classes, `(N,)`, N > 0.
        count: How many to mark, 0 to N.
        seed: The user's ``split_seed``.
        stream: What the choice is for; choices for different uses are independent.

    Returns:
        `(N,)`, true for exactly ``count`` samples.
    """
    assert 0 <= count <= len(labels)
    order = shuffled(derive_seed(seed, "split", stream), 0, torch.arange(len(labels))).numpy()
    classes, sizes = np.unique(labels, return_counts=True)
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label, share in zip(classes, _apportion(sizes, count), strict=True):
        chosen[order[labels[order] == label][:share]] = True
    return chosen
