"""Colour jitter, on the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor

from kdbench.data import pixel_ops
from kdbench.data.counter import fold, uniform


class ColorJitter:
    """Brightness, contrast, saturation and hue, each by a factor of the image's own and in an order of its own.

    Factors are uniform in ``[max(0, 1 - x), 1 + x]``, the move along the hues in ``[-x, x]``.

    Args:
        brightness: 0 or more.
        contrast: 0 or more.
        saturation: 0 or more.
        hue: In turns, in [0, 0.5].

    Source: torchvision's ``ColorJitter``.
    """

    stream = 3

    def __init__(self, *, brightness: float, contrast: float, saturation: float, hue: float) -> None:
        factors = {
            pixel_ops.brightness: brightness,
            pixel_ops.contrast: contrast,
            pixel_ops.saturation: saturation,
        }
        self._ops = {op: (max(0.0, 1.0 - most), 1.0 + most) for op, most in factors.items() if most}
        if hue:
            self._ops[pixel_ops.hue] = (-hue, hue)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """See :class:`kdbench.data.views.View`."""
        numbers = torch.arange(len(self._ops), device=images.device)
        order = fold(keys[:, None], len(self._ops) + numbers).argsort(1)  # of random words: every order alike
        amounts = [uniform(keys, number, *bounds) for number, bounds in enumerate(self._ops.values())]
        result = images.clone()
        for place in range(len(self._ops)):
            for number, op in enumerate(self._ops):
                rows = (order[:, place] == number).nonzero().squeeze(1)
                if len(rows):
                    result.index_copy_(0, rows, op(result.index_select(0, rows), amounts[number][rows]))
        return result
