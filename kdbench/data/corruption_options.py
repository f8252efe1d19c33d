"""What the options of ``dataset.corruption`` may be. Needs no torch, so the plan can be made without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdbench.core.errors import nearest

OPTIONS: Mapping[str, tuple[str, ...]] = {  # keys of each kind, beside `kind` and `version`
    "none": (),
    "label_noise": ("rate", "seed"),
    "label_noise_asymmetric": ("rate", "pairs", "seed"),
    "imbalance": ("factor", "seed"),
}


def corruption_problems(corruption: Mapping[str, Any], num_classes: int | None) -> Iterator[str]:
    """What is wrong with the options, one line each.

    Args:
        corruption: The node ``dataset.corruption``.
        num_classes: ``None`` where it is not known yet.
    """
    kind = str(corruption.get("kind"))
    if kind not in OPTIONS:
        yield f"dataset.corruption={kind}: unknown{nearest(kind, OPTIONS)}"
        return
    if missing := [key for key in OPTIONS[kind] if key not in corruption]:
        yield f"dataset.corruption: {kind} needs {', '.join(missing)}; choose it with dataset/corruption={kind}"
        return
    if "rate" in corruption and not 0 <= corruption["rate"] <= 1:
        yield f"dataset.corruption.rate={corruption['rate']}: must be in [0, 1]"
    if "factor" in corruption and corruption["factor"] < 1:
        yield f"dataset.corruption.factor={corruption['factor']}: must be 1 or more: largest over smallest class"
    if (pairs := corruption.get("pairs")) is not None and not _are_pairs(pairs, num_classes):
        yield f"dataset.corruption.pairs={pairs}: [[from, to], ...] is expected, two different classes each, from once"


def _are_pairs(pairs: Any, num_classes: int | None) -> bool:
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        return False
    if not all(isinstance(label, int) for pair in pairs for label in pair):
        return False
    if any(label < 0 or (num_classes is not None and label >= num_classes) for pair in pairs for label in pair):
        return False
    sources = [source for source, _ in pairs]
    return len(set(sources)) == len(sources) and all(source != target for source, target in pairs)


def long_tail(sizes: Sequence[int], factor: float) -> list[int]:
    r"""How many samples each class keeps.

    .. math:: n_c = \min\bigl(N_c,\ \max(1, \lfloor n_{\max} \, f^{-c / (C - 1)} \rceil)\bigr)

    Args:
        sizes: Samples :math:`N_c` there are of each class; :math:`n_{\max}` is the largest.
        factor: :math:`f \ge 1`, size of the largest class over that of the smallest.

    Source: Cui et al. 2019, arXiv:1901.05555, Sec. 5.1.
    Differs from: their code, which rounds down.
    """
    most, last = max(sizes), max(len(sizes) - 1, 1)
    return [min(size, max(1, round(most * factor ** (-label / last)))) for label, size in enumerate(sizes)]


def kept_size(corruption: Mapping[str, Any], train_size: int, num_classes: int) -> int:
    """Training images that are left of ``train_size``, for classes of equal size."""
    if corruption["kind"] != "imbalance":
        return train_size
    share, rest = divmod(train_size, num_classes)
    return sum(long_tail([share + (label < rest) for label in range(num_classes)], corruption["factor"]))
