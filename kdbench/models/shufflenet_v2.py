"""ShuffleNetV2 for small images, as the benchmarks of distillation have it: ``ShuffleV2``, ``ShuffleV2x1.5``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Tap
from kdbench.models._layers import check_sizes, conv, conv_norm

_STEM = 24  # channels
_BLOCKS = (4, 8, 4)


class SplitBlock(nn.Module):
    """Two branches, joined, then ReLU and a shuffle between them.

    Where the shape stays, the left branch is the first half of the channels as they are; otherwise both branches read
    all channels and halve the image.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: 1, or 2 to halve the image.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.splits = stride == 1
        inputs, half = in_channels // 2 if self.splits else in_channels, out_channels // 2
        self.left = nn.Sequential()
        if not self.splits:
            self.left.append(conv_norm(conv(inputs, inputs, stride=stride, groups=inputs), act=False))
            self.left.append(conv_norm(conv(inputs, half, 1), act=False))
        self.right = nn.Sequential(
            conv_norm(conv(inputs, half, 1)),
            conv_norm(conv(half, half, stride=stride, groups=half), act=False),
            conv_norm(conv(half, half, 1), act=False),
        )
        self.act = nn.ReLU()
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to `(B, out_channels, H / stride, W / stride)`."""
        left, right = x.chunk(2, dim=1) if self.splits else (x, x)
        # One ReLU serves both: what passes on the left unchanged comes from a ReLU and is not negative.
        return self.shuffle(self.act(torch.cat([self.left(left), self.right(right)], dim=1)))


class ShuffleNetV2(nn.Module):
    """Three stages of 4, 8, 4 blocks, each halving the image, between a 1x1 stem and a last 1x1 convolution.

    Takes images of any size. The last convolution belongs to no stage. A stage's pre-activation is read before the
    shuffle, so that its channels stand in another order than the stage's. PyTorch's default initialisation.

    Args:
        widths: Channels of the three stages and of the last convolution.
        num_classes: Number of classes C.
        in_channels: Channels of an image.

    Raises:
        ConfigError: There are not four widths, or a stage's cannot be halved.

    Source: Ma et al. 2018, arXiv:1807.11164, Table 5, as in the code released with Tian et al. 2020, arXiv:1910.10699;
        the 1.5x network as in that of Chen et al. 2022, arXiv:2203.14001.
    Differs from: Ma et al.: 1x1 stem of stride 1, no max pooling.
    """

    def __init__(self, widths: Sequence[int], *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        check_sizes("ShuffleV2", "widths", widths, "three stages and the last convolution", 4)
        if any(width % 2 for width in widths[:3]):
            raise ConfigError(f"ShuffleV2: widths={list(widths)}, those of the stages must be even: they are split")
        self.stem = conv_norm(conv(in_channels, _STEM, 1))
        self.taps = {"stem": Tap("stem")}
        stages: list[nn.Sequential] = []
        channels = _STEM
        for number, (blocks, width) in enumerate(zip(_BLOCKS, widths[:3], strict=True)):
            first = SplitBlock(channels, width, 2)
            stages.append(nn.Sequential(first, *(SplitBlock(width, width, 1) for _ in range(blocks - 1))))
            channels = width
            self.taps[f"stage{number + 1}"] = Tap(f"stages.{number}")
            self.taps[f"stage{number + 1}.preact"] = Tap(f"stages.{number}.{blocks - 1}.act", "input")
        self.stages = nn.Sequential(*stages)
        self.last = conv_norm(conv(channels, widths[3], 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, C)` of normalised images `(B, in_channels, H, W)`."""
        return self.fc(self.pool(self.last(self.stages(self.stem(x)))).flatten(1))
