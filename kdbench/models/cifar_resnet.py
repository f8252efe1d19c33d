"""Residual networks for small images: ``resnet8`` to ``resnet110``, and wider ones such as ``resnet8x4``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Tap


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """conv3x3 - BN - ReLU - conv3x3 - BN, plus the shortcut, then ReLU.

    The last ReLU is a module of its own and not in place: its input is the block's pre-activation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Of the first convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, out_channels, stride)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.act1 = nn.ReLU()
        self.conv2 = _conv3x3(out_channels, out_channels)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.act2 = nn.ReLU()
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to `(B, out_channels, H / stride, W / stride)`."""
        residual = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        return self.act2(residual + self.shortcut(x))


class CifarResNet(nn.Module):
    r"""Three stages of :math:`n = (\mathrm{depth} - 2) / 6` basic blocks, strides 1, 2, 2, for images of any size.

    Shortcuts are 1x1 convolutions with BatchNorm wherever the shape changes (option B). Convolutions start at
    :math:`N(0, 2 / (k^2 \cdot \mathrm{out}))`, the rest at PyTorch's defaults.

    Args:
        depth: :math:`6n + 2`: 8, 14, 20, 26, 32, 44, 56, 110, or any other of that form.
        num_classes: Number of classes C.
        in_channels: Channels of an image.
        widths: Channels of the stem and of the three stages; ``[32, 64, 128, 256]`` makes the "x4" networks.

    Raises:
        ConfigError: The depth is not of that form, or there are not four widths.

    Source: He et al. 2016, arXiv:1512.03385, Sec. 4.2; initialisation arXiv:1502.01852, Eq. 14.
    Differs from: He et al., whose CIFAR networks have parameter-free shortcuts (option A, 2,752 parameters fewer);
        the released code of TAKD and RepDistiller, whence the published results of distillation, has option B.
    """

    def __init__(
        self, depth: int, *, num_classes: int, in_channels: int = 3, widths: Sequence[int] = (16, 16, 32, 64)
    ) -> None:
        super().__init__()
        blocks, remainder = divmod(depth - 2, 6)
        if remainder or blocks < 1:
            raise ConfigError(f"resnet{depth}: the depth must be 6n + 2; near it is {6 * max(blocks, 1) + 2}")
        if len(widths) != 4:
            raise ConfigError(f"resnet{depth}: widths={list(widths)}, four numbers are needed: stem and three stages")

        self.conv = _conv3x3(in_channels, widths[0])
        self.norm = nn.BatchNorm2d(widths[0])
        self.act = nn.ReLU()
        self.taps = {"stem": Tap("act")}
        stages: list[nn.Sequential] = []
        for number, (width_in, width, stride) in enumerate(zip(widths[:3], widths[1:], (1, 2, 2), strict=True)):
            first = BasicBlock(width_in, width, stride)
            stages.append(nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(blocks - 1))))
            self.taps[f"stage{number + 1}"] = Tap(f"stages.{number}")
            self.taps[f"stage{number + 1}.preact"] = Tap(f"stages.{number}.{blocks - 1}.act2", "input")
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, C)` of normalised images `(B, in_channels, H, W)`."""
        x = self.stages(self.act(self.norm(self.conv(x))))
        return self.fc(self.pool(x).flatten(1))
