"""Precisions of arithmetic, as ``trainer.precision`` names them. Needs torch only where a type is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PRECISIONS = {"32-true": None, "bf16-mixed": "bfloat16", "16-mixed": "float16"}  # torch's name of what autocast takes


def autocast_type(precision: str) -> torch.dtype | None:
    """What matrix products are computed in under ``torch.autocast``; ``None``: there is none."""
    import torch

    name = PRECISIONS[precision]
    return None if name is None else getattr(torch, name)
