"""Random operations out of a fixed list: RandAugment and TrivialAugment, on the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from kdbench.data import pixel_ops
from kdbench.data.counter import draw, fold


class _Op(NamedTuple):
    """One operation.

    Attributes:
        kernel: ``(images, arguments) -> images``, on images with an argument each.
        argument: From magnitudes, `(n,)`, to these arguments, `(n, ...)`.
        least: Magnitude of the weakest strength.
        most: Of the strongest.
        signed: Whether half of the images get the opposite.
    """

    kernel: Callable[[Tensor, Tensor], Tensor]
    argument: Callable[[Tensor], Tensor] = lambda magnitudes: magnitudes
    least: float = 0.0
    most: float = 0.0
    signed: bool = False


def _unchanged(images: Tensor, _: Tensor) -> Tensor:
    return images


def _autocontrast(images: Tensor, _: Tensor) -> Tensor:
    return pixel_ops.autocontrast(images)


def _equalize(images: Tensor, _: Tensor) -> Tensor:
    return pixel_ops.equalize(images)


def _matrix(*entries: Tensor | float) -> Tensor:
    """Of :func:`pixel_ops.affine`, `(n, 2, 3)`, row by row; each entry one number or one per image."""
    (count,) = {len(entry) for entry in entries if isinstance(entry, Tensor)}
    columns = [entry if isinstance(entry, Tensor) else torch.full((count,), entry) for entry in entries]
    return torch.stack(columns, 1).view(-1, 2, 3)


def _rotation(degrees: Tensor) -> Tensor:
    angle = degrees.double().deg2rad()  # in float64, where the last bit that a vector unit gives is rounded away
    cos, sin = angle.cos().float(), angle.sin().float()
    return _matrix(cos, -sin, 0.0, sin, cos, 0.0)


def _moves(H: int, W: int, *, shear: float, across: float, down: float, angle: float) -> dict[str, _Op]:
    """The operations that move pixels: shears around the upper left corner, translations, a rotation."""
    matrices: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
        "shear_x": (lambda slope: _matrix(1.0, slope, slope * H / 2, 0.0, 1.0, 0.0), shear),
        "shear_y": (lambda slope: _matrix(1.0, 0.0, 0.0, slope, 1.0, slope * W / 2), shear),
        "translate_x": (lambda pixels: _matrix(1.0, 0.0, -pixels.trunc(), 0.0, 1.0, 0.0), across),
        "translate_y": (lambda pixels: _matrix(1.0, 0.0, 0.0, 0.0, 1.0, -pixels.trunc()), down),
        "rotate": (_rotation, angle),
    }
    return {name: _Op(pixel_ops.affine, matrix, 0.0, most, signed=True) for name, (matrix, most) in matrices.items()}


def _colors(*, change: float, bits: int) -> dict[str, _Op]:
    """The others; ``bits`` are those that the strongest posterisation takes away."""
    blends = {
        "brightness": pixel_ops.brightness,
        "color": pixel_ops.saturation,
        "contrast": pixel_ops.contrast,
        "sharpness": pixel_ops.sharpness,
    }
    return {
        **{name: _Op(kernel, lambda by: 1 + by, 0.0, change, signed=True) for name, kernel in blends.items()},
        "posterize": _Op(pixel_ops.posterize, torch.round, 8, 8 - bits),
        "solarize": _Op(pixel_ops.solarize, lambda level: 255 * level, 1.0, 0.0),
        "autocontrast": _Op(_autocontrast),
        "equalize": _Op(_equalize),
    }


@lru_cache
def narrow_ops(height: int, width: int) -> Mapping[str, _Op]:
    """RandAugment's operations for images of this size; those that move do so by up to 45 % of it."""
    part = 150 / 331
    moves = _moves(height, width, shear=0.3, across=part * width, down=part * height, angle=30)
    return {"identity": _Op(_unchanged), **moves, **_colors(change=0.9, bits=4)}


@lru_cache
def wide_ops(height: int, width: int) -> Mapping[str, _Op]:
    """TrivialAugment's operations; those that move do so by up to 32 pixels, whatever the size."""
    moves = _moves(height, width, shear=0.99, across=32, down=32, angle=135)
    return {"identity": _Op(_unchanged), **moves, **_colors(change=0.99, bits=6)}


def apply_ops(ops: Mapping[str, _Op], images: Tensor, keys: Tensor, strengths: Tensor) -> Tensor:
    """One operation on each image, equally likely each: the images that got the same kernel go through it together.

    Args:
        ops: By name; those with the same kernel stand together.
        images: uint8, `(B, C, H, W)`.
        keys: `(B,)` int64; draws 0 (the operation) and 1 (the sign) are used.
        strengths: In [0, 1] from the weakest to the strongest, `(B,)` float32.
    """
    chosen = draw(keys, 0, len(ops))
    order = chosen.argsort()
    sizes = chosen.bincount(minlength=len(ops)).tolist()
    signs = 1.0 - 2.0 * draw(keys, 1, 2)
    by_op = [
        part.index_select(0, order).split(sizes) for part in (strengths, signs, images.contiguous())
    ]  # faster than [order]
    parts = [part for part in zip(ops.values(), *by_op, strict=True) if len(part[-1])]
    results = []
    for kernel, members in groupby(parts, key=lambda part: part[0].kernel):
        arguments, inputs = [], []
        for op, strength, sign, part in members:
            magnitudes = op.least + (op.most - op.least) * strength
            arguments.append(op.argument(magnitudes * sign if op.signed else magnitudes))
            inputs.append(part)
        results.append(kernel(torch.cat(inputs), torch.cat(arguments)))
    return torch.cat(results).index_select(0, order.argsort())


class RandAugment:
    """Some operations in a row, drawn for each image, all at one strength.

    Args:
        ops: How many in a row, 1 or more; one may come twice.
        magnitude: Their strength, 0 .. bins - 1.
        bins: Number of strengths, 2 or more.

    Source: Cubuk et al. 2019, arXiv:1909.13719, Sec. 3; operations, ranges and nearest pixels of torchvision's
        ``RandAugment``.
    Differs from: the authors' code, which has other ranges and fills with grey.
    """

    stream = 4

    def __init__(self, *, ops: int, magnitude: int, bins: int) -> None:
        self.ops = ops
        self.strength = magnitude / (bins - 1)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """See :class:`kdbench.data.views.View`."""
        ops = narrow_ops(*images.shape[2:])
        strengths = torch.full((len(images),), self.strength, device=images.device)
        for number in range(self.ops):
            images = apply_ops(ops, images, fold(keys, number), strengths)
        return images


class TrivialAugment:
    """One operation at a random strength: nothing to tune.

    Args:
        bins: Number of strengths, 2 or more.

    Source: Mueller & Hutter 2021, arXiv:2103.10158, Sec. 3, the wide space; as torchvision's ``TrivialAugmentWide``.
    """

    stream = 5

    def __init__(self, *, bins: int) -> None:
        self.bins = bins

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """See :class:`kdbench.data.views.View`."""
        strengths = draw(keys, 2, self.bins) / (self.bins - 1)
        return apply_ops(wide_ops(*images.shape[2:]), images, keys, strengths)
