"""Trainable maps from the student's space to the teacher's, sized from the shapes of both."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.criteria._features import Shape


def resizing_conv(source: Shape, target: Shape) -> nn.Module:
    """One convolution with bias from maps `(C, H, W)` to maps `(C', H', W')`.

    Half the side: 3x3, stride 2, padding 1. Twice the side: transposed 4x4, stride 2, padding 1. Otherwise an unpadded
    kernel of `1 + H - H'` by `1 + W - W'`, which is 1x1 for equal sides.

    Raises:
        ConfigError: The target is larger, but not twice as large.
    """
    (c_in, height, width), (c_out, to_height, to_width) = source, target
    if (height, width) == (2 * to_height, 2 * to_width):
        return nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)
    if (2 * height, 2 * width) == (to_height, to_width):
        return nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1)
    if height >= to_height and width >= to_width:
        return nn.Conv2d(c_in, c_out, (1 + height - to_height, 1 + width - to_width))
    raise ConfigError(
        f"no convolution leads from the student's {height}x{width} map to the teacher's {to_height}x{to_width}, which "
        f"is larger but not twice as large; choose taps of nearer sizes"
    )


def pointwise_convs(*channels: int) -> nn.Sequential:
    """1x1 convolutions without bias through the given numbers of channels, ReLU between them."""
    layers: list[nn.Module] = []
    for c_in, c_out in pairwise(channels):
        layers += [nn.Conv2d(c_in, c_out, 1, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
