"""Densely connected networks with bottlenecks and compression, for small images: ``densenet_bc_100_12``."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Tap
from kdbench.models._layers import conv, repeats_of, start_from_fan_out


class DenseLayer(nn.Module):
    """BN - ReLU - conv1x1 - BN - ReLU - conv3x3, appended to its input.

    Args:
        in_channels: Channels of the input.
        growth: Channels that are appended; the 1x1 convolution has four times as many.
    """

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.act1 = nn.ReLU()
        self.conv1 = conv(in_channels, 4 * growth, 1)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.act2 = nn.ReLU()
        self.conv2 = conv(4 * growth, growth)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to `(B, in_channels + growth, H, W)`."""
        new = self.conv1(self.act1(self.norm1(x)))
        return torch.cat([x, self.conv2(self.act2(self.norm2(new)))], dim=1)


def _transition(in_channels: int, out_channels: int | None) -> nn.Sequential:
    """What follows a stage: BN - ReLU, and where another stage comes, conv1x1 - 2x2 average pooling."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(norm=nn.BatchNorm2d(in_channels), act=nn.ReLU())
    if out_channels is not None:
        layers |= {"conv": conv(in_channels, out_channels, 1), "pool": nn.AvgPool2d(2)}
    return nn.Sequential(layers)


class DenseNetBC(nn.Module):
    r"""Three stages of :math:`n = (\mathrm{depth} - 4) / 6` dense layers, a transition that halves the image between.

    Stages are tapped before their transition, raw; a stage's pre-activation is the same behind the next BatchNorm.
    No dropout. Convolutions start at :math:`N(0, 2 / (k^2 \cdot \mathrm{out}))`, the classifier's bias at 0.

    Args:
        depth: :math:`6n + 4`: 40, 100, 190, or any other of that form.
        growth: Channels that each layer adds; the stem has twice as many.
        reduction: Part of the channels that a transition keeps, in (0, 1].
        num_classes: Number of classes C.
        in_channels: Channels of an image.

    Raises:
        ConfigError: The depth is not of that form, or a number is out of range.

    Source: Huang et al. 2017, arXiv:1608.06993, Sec. 3 and 4.2, as Zhang & Sabuncu 2020, arXiv:2006.05065, use it.
    """

    def __init__(self, depth: int, growth: int, reduction: float, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        layers = repeats_of("DenseNet-BC", depth)
        if growth < 1 or not 0 < reduction <= 1:
            raise ConfigError(f"DenseNet-BC: growth={growth} must be positive and reduction={reduction} in (0, 1]")
        channels = 2 * growth
        self.conv = conv(in_channels, channels)
        self.taps = {"stem": Tap("conv")}
        stages: list[nn.Module] = []
        for number in range(3):
            stage = nn.Sequential(*(DenseLayer(channels + growth * index, growth) for index in range(layers)))
            channels += growth * layers
            kept = max(1, int(channels * reduction)) if number < 2 else None
            stages += [stage, _transition(channels, kept)]
            self.taps[f"stage{number + 1}"] = Tap(f"stages.{2 * number}")
            self.taps[f"stage{number + 1}.preact"] = Tap(f"stages.{2 * number + 1}.norm")
            channels = kept or channels
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        start_from_fan_out(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, C)` of normalised images `(B, in_channels, H, W)`."""
        return self.fc(self.pool(self.stages(self.conv(x))).flatten(1))
