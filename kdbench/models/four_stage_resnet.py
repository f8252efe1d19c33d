"""ImageNet's residual networks with a stem for small images: ``resnet34``, ``ResNet50``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kdbench.core.errors import ConfigError, nearest
from kdbench.core.types import Tap
from kdbench.models._layers import check_sizes, conv, conv_norm, start_from_fan_out
from kdbench.models.cifar_resnet import BasicBlock


class Bottleneck(nn.Module):
    """conv1x1 - conv3x3 - conv1x1, each with BN and all but the last with ReLU, plus the shortcut, then ReLU.

    The last ReLU is a module of its own and not in place: its input is the block's pre-activation.

    Args:
        in_channels: Channels of the input.
        width: Channels of the 3x3 convolution; the output has four times as many.
        stride: Of the 3x3 convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = conv(in_channels, width, 1)
        self.norm1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU()
        self.conv2 = conv(width, width, stride=stride)
        self.norm2 = nn.BatchNorm2d(width)
        self.act2 = nn.ReLU()
        self.conv3 = conv(width, out_channels, 1)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.act3 = nn.ReLU()
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to `(B, 4 width, H / stride, W / stride)`."""
        residual = self.act1(self.norm1(self.conv1(x)))
        residual = self.act2(self.norm2(self.conv2(residual)))
        return self.act3(self.norm3(self.conv3(residual)) + self.shortcut(x))


# By its name in the YAML: the block, how many times its width it puts out, its last activation.
_BLOCKS: dict[str, tuple[type[BasicBlock | Bottleneck], int, str]] = {
    "basic": (BasicBlock, 1, "act2"),
    "bottleneck": (Bottleneck, 4, "act3"),
}


class FourStageResNet(nn.Module):
    r"""Four stages of residual blocks, strides 1, 2, 2, 2, behind a 3x3 stem of stride 1, for images of any size.

    Shortcuts are 1x1 convolutions with BatchNorm wherever the shape changes. Convolutions start at
    :math:`N(0, 2 / (k^2 \cdot \mathrm{out}))`, the rest at PyTorch's defaults.

    Args:
        block: ``basic`` or ``bottleneck``.
        blocks: Blocks of each stage.
        widths: Channels of the stem and of the stages' 3x3 convolutions.
        num_classes: Number of classes C.
        in_channels: Channels of an image.

    Raises:
        ConfigError: There is no such block, or numbers are missing.

    Source: He et al. 2016, arXiv:1512.03385, Table 1, as in the code released with Tian et al. 2020, arXiv:1910.10699.
    Differs from: He et al.: 3x3 stem, no max pooling, the stride of a bottleneck on its 3x3 convolution. Zhang &
        Sabuncu 2020, arXiv:2006.05065, whose resnet34 may start from other random weights; its form is the same.
    """

    def __init__(
        self, block: str, blocks: Sequence[int], widths: Sequence[int], *, num_classes: int, in_channels: int = 3
    ) -> None:
        super().__init__()
        if block not in _BLOCKS:
            raise ConfigError(f"block={block}: unknown{nearest(block, _BLOCKS)}")
        check_sizes("four-stage ResNet", "blocks", blocks, "one for each stage", 4)
        check_sizes("four-stage ResNet", "widths", widths, "stem and four stages", 5)
        build, expansion, last = _BLOCKS[block]

        self.stem = conv_norm(conv(in_channels, widths[0]))
        self.taps = {"stem": Tap("stem")}
        stages: list[nn.Sequential] = []
        channels = widths[0]
        for number, (repeats, width) in enumerate(zip(blocks, widths[1:], strict=True)):
            layers = [build(channels, width, 2 if number else 1)]
            channels = width * expansion
            layers += [build(channels, width, 1) for _ in range(repeats - 1)]
            stages.append(nn.Sequential(*layers))
            self.taps[f"stage{number + 1}"] = Tap(f"stages.{number}")
            self.taps[f"stage{number + 1}.preact"] = Tap(f"stages.{number}.{repeats - 1}.{last}", "input")
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        start_from_fan_out(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, C)` of normalised images `(B, in_channels, H, W)`."""
        return self.fc(self.pool(self.stages(self.stem(x))).flatten(1))
