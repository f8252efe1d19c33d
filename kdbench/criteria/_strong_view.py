"""A strong view of images in a batch: two random operations and a cutout, as FixMatch and MLKD have it."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

_FILL = (125, 123, 114)
_LARGEST_HOLE = 0.5  # of the side


def _move(
    image: Tensor,
    *,
    angle: float = 0.0,
    across: float = 0.0,
    down: float = 0.0,
    shear: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    degrees = [float(torch.tensor(each).atan().rad2deg()) for each in shear]
    pixels: list[float] = [round(across * image.shape[-1]), round(down * image.shape[-2])]
    return tv.affine(image, angle=angle, translate=pixels, scale=1.0, shear=degrees)


def _posterize(image: Tensor, bits: float) -> Tensor:
    return tv.posterize(image, int(bits))


def _solarize(image: Tensor, threshold: float) -> Tensor:
    return torch.where(image >= threshold, 255 - image, image)


# Each with the ends of the range that its strength is drawn from, uniformly.
OPERATIONS: dict[str, tuple[Callable[[Tensor, float], Tensor], float, float]] = {
    "identity": (lambda image, _: image, 0.0, 0.0),
    "auto_contrast": (lambda image, _: tv.autocontrast(image), 0.0, 0.0),
    "equalize": (lambda image, _: tv.equalize(image), 0.0, 0.0),
    "brightness": (tv.adjust_brightness, 0.05, 0.95),
    "color": (tv.adjust_saturation, 0.05, 0.95),
    "contrast": (tv.adjust_contrast, 0.05, 0.95),
    "sharpness": (tv.adjust_sharpness, 0.05, 0.95),
    "posterize": (_posterize, 4.0, 9.0),  # whole numbers from 4 to 8
    "solarize": (_solarize, 0.0, 256.0),
    "rotate": (lambda image, angle: _move(image, angle=angle), -30.0, 30.0),
    "shear_x": (lambda image, slope: _move(image, shear=(slope, 0.0)), -0.3, 0.3),
    "shear_y": (lambda image, slope: _move(image, shear=(0.0, slope)), -0.3, 0.3),
    "translate_x": (lambda image, part: _move(image, across=part), -0.3, 0.3),
    "translate_y": (lambda image, part: _move(image, down=part), -0.3, 0.3),
}


def cut_out(image: Tensor) -> Tensor:
    """A square of a random side, up to half of the image's, around a random place is filled with grey.

    Args:
        image: uint8, `(C, H, W)`, not written to.
    """
    height, width = image.shape[-2:]
    side, row, column = torch.rand(3).tolist()
    side, row, column = side * _LARGEST_HOLE * width, row * height, column * width
    top, left = max(0, int(row - side / 2)), max(0, int(column - side / 2))
    image = image.clone()
    hole = image[:, top : min(height, ceil(top + side)), left : min(width, ceil(left + side))]
    hole.copy_(torch.tensor(_FILL[: len(image)], dtype=torch.uint8, device=image.device)[:, None, None].expand_as(hole))
    return image


def strong_view(pixels: Tensor) -> Tensor:
    """Two operations, drawn with replacement, and a cutout, for each image by itself.

    Draws come from the global generator of the CPU, whatever the device.

    Args:
        pixels: In [0, 1], `(B, C, H, W)` with 1 or 3 channels.

    Returns:
        The same shape, in steps of 1/255.

    Source: FixMatch's RandAugment (Sohn et al. 2020, arXiv:2001.07685, Table 12) as in MLKD's released code.
    """
    choices = list(OPERATIONS.values())
    seen = []
    for image in (pixels * 255).round().to(torch.uint8):
        for choice, strength in zip(torch.randint(len(choices), (2,)).tolist(), torch.rand(2).tolist(), strict=True):
            operation, low, high = choices[choice]
            image = operation(image, low + strength * (high - low))
        seen.append(cut_out(image))
    return torch.stack(seen).to(pixels.dtype) / 255
