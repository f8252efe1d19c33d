"""MobileNetV2 for small images, as the benchmarks of distillation have it."""

from __future__ import annotations

from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Tap
from kdbench.models._layers import conv, conv_norm, start_from_fan_out

# Of each group of blocks: expansion, channels before the width factor, blocks, stride of the first.
_GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM = 32  # channels before the width factor
_LAST = 1280  # not scaled
_TAPPED = (1, 2, 4, 6)  # positions of the groups 2, 3, 5 and 7


class InvertedResidual(nn.Module):
    """conv1x1 - depthwise conv3x3 - linear conv1x1; plus the input where the shape stays.

    The expanding convolution is there also where it does not expand.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        expansion: Channels between, as a multiple of ``in_channels``.
        stride: Of the depthwise convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = conv_norm(conv(in_channels, hidden, 1))
        self.depthwise = conv_norm(conv(hidden, hidden, stride=stride, groups=hidden))
        self.project = conv_norm(conv(hidden, out_channels, 1), act=False)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to `(B, out_channels, H / stride, W / stride)`."""
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    r"""Seven groups of inverted residual blocks behind a 3x3 stem of stride 2, for images of any size.

    Stages are tapped behind the groups 2, 3, 5 and 7. Blocks end linearly: a stage and its pre-activation are the same.
    No dropout. Convolutions start at :math:`N(0, 2 / (k^2 \cdot \mathrm{out}))`, the classifier at
    :math:`N(0, 0.01^2)`, biases at 0.

    Args:
        width: Factor on all channels but the last convolution's 1280; results are cut to whole numbers.
        num_classes: Number of classes C.
        in_channels: Channels of an image.

    Raises:
        ConfigError: The width leaves a group without channels.

    Source: Sandler et al. 2018, arXiv:1801.04381, Table 2, as in the code released with Tian et al. 2020,
        arXiv:1910.10699.
    Differs from: Sandler et al.: ReLU in place of ReLU6, an expanding convolution in the first group, fewer strides, no
        dropout.
    """

    def __init__(self, width: float, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        if int(_GROUPS[0][1] * width) < 1:
            raise ConfigError(f"MobileNetV2: width={width} leaves a group without channels; 1/16 is the least")
        channels = int(_STEM * width)
        self.stem = conv_norm(conv(in_channels, channels, stride=2))
        groups: list[nn.Sequential] = []
        for expansion, base, blocks, stride in _GROUPS:
            out_channels = int(base * width)
            layers = [InvertedResidual(channels, out_channels, expansion, stride)]
            layers += [InvertedResidual(out_channels, out_channels, expansion, 1) for _ in range(blocks - 1)]
            groups.append(nn.Sequential(*layers))
            channels = out_channels
        self.groups = nn.Sequential(*groups)
        self.last = conv_norm(conv(channels, _LAST, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(_LAST, num_classes)
        self.taps = {"stem": Tap("stem")}
        for number, group in enumerate(_TAPPED, start=1):
            self.taps[f"stage{number}"] = self.taps[f"stage{number}.preact"] = Tap(f"groups.{group}")
        start_from_fan_out(self)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, C)` of normalised images `(B, in_channels, H, W)`."""
        return self.fc(self.pool(self.last(self.groups(self.stem(x)))).flatten(1))
