"""Operations on whole uint8 batches at a strength of each image's own, level by level those of torchvision.

Every function takes images `(B, C, H, W)` uint8 of any C, H and W, writes to none of them, and gives the same form.
Strengths are `(B,)` float32. Nothing is read back from the device. What becomes of an image does not depend on the rest
of its batch, not in one bit: sums are of whole numbers, and no step leaves a choice of rounding to the hardware.

Source: torchvision, ``transforms.v2.functional`` (BSD licence), whose results these are for C of 1 and 3.
Differs from: it in at most one level of a pixel where float32 rounds a factor differently; and in being defined for
    other numbers of channels, where brightness is the mean of the channels and there is no colour.
"""

from __future__ import annotations

import torch
from torch import Tensor

_RED, _GREEN, _BLUE = 2989, 5870, 1140  # shares in the perceived brightness, ITU-R BT.601, in ten-thousandths


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _gray(images: Tensor) -> Tensor:
    """Perceived brightness, whole levels in float32, `(B, 1, H, W)`."""
    if images.shape[1] != 3:
        return images.sum(1, keepdim=True).div(images.shape[1]).floor_()
    red, green, blue = images.float().split(1, dim=1)
    return red.mul(_RED).add_(green, alpha=_GREEN).add_(blue, alpha=_BLUE).div_(10_000).floor_()


def _blend(images: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    """``factor`` of the images and ``1 - factor`` of the others: beyond 1 it goes away from them."""
    factor = _per_image(factor)
    return (images * factor).add_(others * (1 - factor)).clamp_(0, 255).byte()


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """From black (factor 0) over the image (1) to brighter."""
    return (images * _per_image(factor)).clamp_(0, 255).byte()


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """From the mean brightness (factor 0) over the image (1) to more contrast."""
    total = _gray(images).sum((1, 2, 3), keepdim=True, dtype=torch.float64)  # exact in any order
    mean = total / (images.shape[2] * images.shape[3])
    return _blend(images, mean.float(), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """From grey (factor 0) over the image (1) to more colour."""
    return images if images.shape[1] != 3 else _blend(images, _gray(images), factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """From blurred (factor 0) over the image (1) to sharper; the border of one pixel stays as it is."""
    if min(images.shape[2:]) <= 2:
        return images
    result = images.float()
    inner = result[..., 1:-1, 1:-1]
    rows = result[..., :-2, :] + result[..., 1:-1, :] + result[..., 2:, :]
    sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]  # of 3x3 pixels: several times faster than a convolution
    blurred = sums.add_(inner, alpha=4).div_(13).round_()  # the centre counts five times
    inner.add_(blurred.sub_(inner).mul_(1 - _per_image(factor)))
    return result.clamp_(0, 255).byte()


def hue(images: Tensor, factor: Tensor) -> Tensor:
    """Moves every colour along the circle of hues by this part of it, in [-0.5, 0.5]."""
    if images.shape[1] != 3:
        return images
    pixels = images / 255.0
    value, least = pixels.amax(1), pixels.amin(1)
    spread = value - least
    grey = spread == 0
    red, green, blue = ((value[:, None] - pixels) / torch.where(grey, 1.0, spread)[:, None]).unbind(1)
    is_red = pixels[:, 0] == value
    is_green = (pixels[:, 1] == value) & ~is_red
    sector = torch.where(is_red, blue - green, torch.where(is_green, 2 + red - blue, 4 + green - red))
    saturated = spread / torch.where(grey, 1.0, value)
    angle = sector / 6 + factor[:, None, None]
    angle = (angle - angle.floor()) * 6  # as all below, without the operator %, which is slow
    # Each channel falls from `value` to `least` with its distance on the circle, counted in sixths: HSV's hexagon.
    offsets = torch.tensor([5.0, 3.0, 1.0], device=images.device)[:, None, None]
    distance = angle[:, None] + offsets
    distance -= 6 * (distance >= 6)
    fall = torch.minimum(distance, 4 - distance).clamp_(0, 1)
    result = value[:, None] * (1 - saturated[:, None] * fall)
    return (result * (256 - 1e-3)).byte()  # torchvision's way back from [0, 1]


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keeps the highest so many of the 8 bits."""
    kept = 256 - 2.0 ** (8 - bits)
    return images & _per_image(kept.byte())


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Inverts pixels at or above the threshold, in levels."""
    inverted = (images >= _per_image(threshold)).byte().neg_()  # 255 where it is; much faster than torch.where
    return images ^ inverted


def autocontrast(images: Tensor) -> Tensor:
    """Stretches every channel to the full range; one of a single level stays as it is."""
    pixels = images.float()
    least, most = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    flat = least == most
    scale = torch.where(flat, 1.0, (most - least) * (1 / 255))
    return pixels.sub_(torch.where(flat, 0.0, least)).div_(scale).clamp_(0, 255).byte()


def equalize(images: Tensor) -> Tensor:
    """Spreads the levels of every channel so that all are about equally frequent, in whole numbers as Pillow does."""
    levels = images.flatten(2).long()
    counts = levels.new_zeros(*levels.shape[:2], 256)
    counts.scatter_add_(2, levels, counts.new_ones(1).expand_as(levels))
    below = counts.cumsum(2)
    highest = counts.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - highest) // 255
    table = (below - counts + step // 2) // step.clamp(min=1)
    equalized = table.clamp_(0, 255).byte().gather(2, levels)
    return torch.where(step > 0, equalized, images.flatten(2)).view_as(images)


def affine(images: Tensor, matrix: Tensor) -> Tensor:
    r"""Moves pixels: each takes the value of the nearest pixel at :math:`M (x, y, 1)^T`, black outside; one gather.

    Args:
        images: `(B, C, H, W)`.
        matrix: :math:`M`, `(B, 2, 3)`: from places in the result to places in the image, in pixels from its centre.
    """
    B, C, H, W = images.shape
    x, y = (torch.arange(size, device=images.device) - (size - 1) / 2 for size in (W, H))
    by_x, by_y, shift = matrix[..., None].unbind(2)  # each (B, 2, 1)
    shift = shift + torch.tensor([[W - 1], [H - 1]], device=images.device) / 2
    column, row = ((by_x * x)[:, :, None, :] + (by_y * y + shift)[:, :, :, None]).round_().unbind(1)
    inside = (column >= 0) & (column < W) & (row >= 0) & (row < H)
    source = row.mul_(W).add_(column).mul_(inside).long()
    moved = images.flatten(2).gather(2, source.view(B, 1, -1).expand(B, C, H * W)).view(B, C, H, W)
    return moved.mul_(inside[:, None])
