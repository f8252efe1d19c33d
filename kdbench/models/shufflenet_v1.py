"""ShuffleNet for small images, as the benchmarks of distillation have it: ``ShuffleV1``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Tap
from kdbench.models._layers import check_sizes, conv, conv_norm

_STEM = 24  # channels
_BLOCKS = (4, 8, 4)


class ShuffleBlock(nn.Module):
    """Group conv1x1 - shuffle - depthwise conv3x3 - group conv1x1, joined with the input, then ReLU.

    Stride 1 adds the input; stride 2 appends it, average-pooled, behind the branch.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Of the depthwise convolution.
        groups: Of both 1x1 convolutions; the first has one group where it reads the stem, whose channels are few.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int) -> None:
        super().__init__()
        branch = out_channels - in_channels if stride == 2 else out_channels
        hidden = branch // 4
        first_groups = 1 if in_channels == _STEM else groups
        self.reduce = conv_norm(conv(in_channels, hidden, 1, groups=first_groups))
        self.shuffle = nn.ChannelShuffle(first_groups)
        self.depthwise = conv_norm(conv(hidden, hidden, stride=stride, groups=hidden))
        self.expand = conv_norm(conv(hidden, branch, 1, groups=groups), act=False)
        self.shortcut = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else None
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to `(B, out_channels, H / stride, W / stride)`."""
        branch = self.expand(self.depthwise(self.shuffle(self.reduce(x))))
        return self.act(branch + x if self.shortcut is None else torch.cat([branch, self.shortcut(x)], dim=1))


class ShuffleNetV1(nn.Module):
    """Three stages of 4, 8, 4 shuffle blocks, each halving the image, behind a 1x1 stem of 24 channels.

    Takes images of any size. PyTorch's default initialisation.

    Args:
        widths: Channels of the three stages.
        groups: Groups of the 1x1 convolutions.
        num_classes: Number of classes C.
        in_channels: Channels of an image.

    Raises:
        ConfigError: There are not three widths, or they cannot be grouped.

    Source: Zhang et al. 2018, arXiv:1707.01083, Table 1, as in the code released with Tian et al. 2020,
        arXiv:1910.10699.
    Differs from: Zhang et al.: 1x1 stem of stride 1, no max pooling, a ReLU behind the depthwise convolution, a quarter
        of the *branch's* channels inside a block.
    """

    def __init__(self, widths: Sequence[int], groups: int, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        check_sizes("ShuffleV1", "widths", widths, "one for each stage", 3)
        branches = [*widths, *(after - before for before, after in pairwise((_STEM, *widths)))]
        if any(branch < 1 or branch % (4 * groups) for branch in branches):
            raise ConfigError(
                f"ShuffleV1: widths={list(widths)}, groups={groups}: each width, and what it adds to the one before it "
                f"(the stem's is {_STEM}), must be a multiple of {4 * groups}"
            )
        self.stem = conv_norm(conv(in_channels, _STEM, 1))
        self.taps = {"stem": Tap("stem")}
        stages: list[nn.Sequential] = []
        channels = _STEM
        for number, (blocks, width) in enumerate(zip(_BLOCKS, widths, strict=True)):
            first = ShuffleBlock(channels, width, 2, groups)
            stages.append(nn.Sequential(first, *(ShuffleBlock(width, width, 1, groups) for _ in range(blocks - 1))))
            channels = width
            self.taps[f"stage{number + 1}"] = Tap(f"stages.{number}")
            self.taps[f"stage{number + 1}.preact"] = Tap(f"stages.{number}.{blocks - 1}.act", "input")
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, C)` of normalised images `(B, in_channels, H, W)`."""
        return self.fc(self.pool(self.stages(self.stem(x))).flatten(1))
