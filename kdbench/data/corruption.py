"""Damage to the training data, on purpose: wrong labels, rare classes. Validation and test sets stay clean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdbench.core.seeds import derive_seed
from kdbench.data.corruption_options import long_tail
from kdbench.data.counter import draw, sample_keys
from kdbench.data.splits import choose

Labels = NDArray[np.int64]
Kept = tuple[Labels, NDArray[np.bool_]]  # new labels of all samples; which samples are kept


def _everything(labels: Labels) -> NDArray[np.bool_]:
    return np.ones(len(labels), dtype=np.bool_)


def symmetric_noise(labels: Labels, corruption: Mapping[str, Any], num_classes: int) -> Kept:
    """A part ``rate`` of the labels, of each class its share, becomes a uniformly drawn *other* class.

    So exactly ``rate`` of the labels are wrong; at ``1 - 1 / C`` they say nothing any more.

    Source: Patrini et al. 2017, arXiv:1609.03683, Sec. 5.
    Differs from: codes that draw among all classes, where only ``rate * (1 - 1 / C)`` of the labels are wrong.
    """
    seed = corruption["seed"]
    hit = choose(labels, round(corruption["rate"] * len(labels)), seed=seed, stream="label_noise")
    keys = sample_keys(derive_seed(seed, "label_noise", "class"), 0, torch.arange(len(labels)))
    others = (labels + 1 + draw(keys, 0, num_classes - 1).numpy()) % num_classes
    return np.where(hit, others, labels), _everything(labels)


def asymmetric_noise(labels: Labels, corruption: Mapping[str, Any], num_classes: int) -> Kept:
    """A part ``rate`` of the labels of each class becomes one fixed other class.

    ``pairs`` lists classes with what they are mistaken for, the others stay clean; without it each becomes the next.

    Source: Patrini et al. 2017, arXiv:1609.03683, Sec. 5.
    """
    pairs = corruption["pairs"]
    mistaken = np.arange(num_classes)
    if pairs is None:
        mistaken = (mistaken + 1) % num_classes
    for source, target in pairs or ():
        mistaken[source] = target
    at_risk = np.flatnonzero(mistaken[labels] != labels)
    hit = choose(labels[at_risk], round(corruption["rate"] * len(at_risk)), seed=corruption["seed"],
                 stream="label_noise_asymmetric") if len(at_risk) else np.zeros(0, dtype=np.bool_)  # fmt: skip
    changed = labels.copy()
    changed[at_risk[hit]] = mistaken[labels[at_risk[hit]]]
    return changed, _everything(labels)


def imbalance(labels: Labels, corruption: Mapping[str, Any], num_classes: int) -> Kept:
    """A long tail: of class ``c`` fewer samples are kept the larger ``c`` is; see :func:`long_tail`."""
    sizes = np.bincount(labels, minlength=num_classes)
    kept = np.zeros(len(labels), dtype=np.bool_)
    for label, count in enumerate(long_tail(sizes.tolist(), corruption["factor"])):
        own = np.flatnonzero(labels == label)
        if len(own):
            kept[own] = choose(labels[own], count, seed=corruption["seed"], stream=f"imbalance/{label}")
    return labels, kept


def _none(labels: Labels, corruption: Mapping[str, Any], num_classes: int) -> Kept:
    return labels, _everything(labels)


KINDS: Mapping[str, Callable[[Labels, Mapping[str, Any], int], Kept]] = {
    "none": _none,
    "label_noise": symmetric_noise,
    "label_noise_asymmetric": asymmetric_noise,
    "imbalance": imbalance,
}


def corrupt(labels: Labels, corruption: Mapping[str, Any], num_classes: int) -> Kept:
    """The training labels after the corruption.

    Args:
        labels: Classes of the training images after the split, `(N,)`, N > 0.
        corruption: The node ``dataset.corruption``, checked by :func:`corruption_problems`.
        num_classes: C, 2 or more.

    Returns:
        Labels, `(N,)`, and which of the samples are kept, `(N,)`: functions of the arguments alone.
    """
    return KINDS[corruption["kind"]](labels, corruption, num_classes)
