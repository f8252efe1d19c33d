"""Wide residual networks for small images: ``wrn_16_1``, ``wrn_40_2`` and their like."""

from __future__ import annotations

from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Tap
from kdbench.models._layers import conv, repeats_of, start_from_fan_out


class PreactBlock(nn.Module):
    """BN - ReLU - conv3x3 - BN - ReLU - conv3x3, plus the shortcut; nothing follows the sum.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Of the first convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.act1 = nn.ReLU()
        self.conv1 = conv(in_channels, out_channels, stride=stride)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.act2 = nn.ReLU()
        self.conv2 = conv(out_channels, out_channels)
        self.shortcut = None if in_channels == out_channels else conv(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to `(B, out_channels, H / stride, W / stride)`."""
        activated = self.act1(self.norm1(x))
        residual = self.conv2(self.act2(self.norm2(self.conv1(activated))))
        # A projection starts from the activated input, an identity from the raw one.
        return residual + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    r"""Three stages of :math:`n = (\mathrm{depth} - 4) / 6` pre-activation blocks, strides 1, 2, 2, for any image size.

    Stem and stages are tapped raw: sums that no BatchNorm or ReLU has seen. A stage's pre-activation is the same behind
    the next BatchNorm: of the following stage, or the final one. No dropout; convolutions start at
    :math:`N(0, 2 / (k^2 \cdot \mathrm{out}))`, the classifier's bias at 0.

    Args:
        depth: :math:`6n + 4`: 16, 22, 28, 40, or any other of that form.
        width: Factor on the channels 16, 32, 64 of the stages; the stem has 16.
        num_classes: Number of classes C.
        in_channels: Channels of an image.

    Raises:
        ConfigError: The depth is not of that form, or the width is below 1.

    Source: Zagoruyko & Komodakis 2016, arXiv:1605.07146, Table 1; taps and initialisation as in the code released with
        Tian et al. 2020, arXiv:1910.10699.
    """

    def __init__(self, depth: int, width: int, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        blocks = repeats_of("wrn", depth)
        if width < 1:
            raise ConfigError(f"wrn: width={width}, the factor on the channels must be at least 1")
        self.conv = conv(in_channels, 16)
        self.taps = {"stem": Tap("conv")}
        stages: list[nn.Sequential] = []
        channels = 16
        for number, stride in enumerate((1, 2, 2)):
            inputs, channels = channels, 16 * width * 2**number
            first = PreactBlock(inputs, channels, stride)
            stages.append(nn.Sequential(first, *(PreactBlock(channels, channels, 1) for _ in range(blocks - 1))))
            self.taps[f"stage{number + 1}"] = Tap(f"stages.{number}")
            self.taps[f"stage{number + 1}.preact"] = Tap(f"stages.{number + 1}.0.norm1" if number < 2 else "norm")
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        start_from_fan_out(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, C)` of normalised images `(B, in_channels, H, W)`."""
        x = self.act(self.norm(self.stages(self.conv(x))))
        return self.fc(self.pool(x).flatten(1))
