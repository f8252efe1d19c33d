"""How a training's arithmetic is carried out, where that changes its last digits: checked, and set for its duration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from kdbench.core.errors import nearest

COMPILE = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
MATMUL = ("highest", "high", "medium")


def kernel_problems(budget: Mapping[str, Any]) -> list[str]:
    """What is wrong with ``compile`` and ``matmul`` of a recipe's budget, one line each."""
    mode, matmul = budget["compile"], budget["matmul"]
    problems = []
    if mode is not None and mode not in COMPILE:
        problems.append(f"trainer.compile={mode}: unknown{nearest(str(mode), COMPILE)}, or null for none")
    if matmul not in MATMUL:
        problems.append(f"trainer.matmul={matmul}: unknown{nearest(str(matmul), MATMUL)}")
    return problems


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Precision of float32 products inside a ``with`` statement; the process has one setting, which is put back.

    Args:
        name: ``highest``: float32. ``high``: TF32 on GPUs that have it. ``medium``: bfloat16 where that is faster.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
