"""The plain CNN family: stacked 3x3 convolutions whose "size" is the number of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Tap


class Layout(NamedTuple):
    """What distinguishes one member of the family.

    Attributes:
        stages: Channels of each convolution, by stage.
        hidden: Width of a linear layer before the classifier; 0 for none.
        last_pool: Whether the last stage is followed by a 2x2 max pooling, as all others are.
    """

    stages: tuple[tuple[int, ...], ...]
    hidden: int = 0
    last_pool: bool = True

    @property
    def smallest_side(self) -> int:
        """Pixels that each side of an image needs, so that the poolings leave at least one."""
        return 2 ** (len(self.stages) - (not self.last_pool))


# As published, no clean sweep of depth: size 10 widens the first stage, cifar100's size 6 lacks its last pooling.
LAYOUTS: dict[str, dict[int, Layout]] = {
    "cifar10": {
        2: Layout(((16,), (16,))),
        4: Layout(((16, 16), (32, 32))),
        6: Layout(((16, 16), (32, 32), (64, 64))),
        8: Layout(((16, 16), (32, 32), (64, 64), (128, 128)), hidden=64),
        10: Layout(((32, 32), (64, 64), (128, 128), (256,) * 4), hidden=128),
    },
    "cifar100": {
        2: Layout(((32,), (32,))),
        4: Layout(((32, 32), (64, 64))),
        6: Layout(((32, 32), (64, 64), (128, 128)), last_pool=False),
        8: Layout(((32, 32), (64, 64), (128, 128), (256, 256)), hidden=64),
        10: Layout(((32, 32), (64, 64), (128, 128), (256,) * 4), hidden=512),
    },
}


def choose_layout(size: int, variant: str, widths: Sequence[int] | None) -> Layout:
    """The layout of ``size`` in ``variant``, with its channels replaced by ``widths`` if there are any.

    Raises:
        ConfigError: No such size or variant, or ``widths`` does not have one positive number per convolution.
    """
    if variant not in LAYOUTS:
        raise ConfigError(f"plain{size}: variant={variant!r}, allowed are auto, {', '.join(LAYOUTS)}")
    if size not in LAYOUTS[variant]:
        raise ConfigError(f"plain{size}: the family has the sizes {', '.join(map(str, LAYOUTS[variant]))}")
    layout = LAYOUTS[variant][size]
    if widths is None:
        return layout
    if len(widths) != size or min(widths) < 1:
        raise ConfigError(f"plain{size}: widths={list(widths)}, one positive number for each of {size} convolutions")
    remaining = iter(widths)
    return layout._replace(stages=tuple(tuple(next(remaining) for _ in stage) for stage in layout.stages))


def _convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(in_channels, out_channels, 3, padding=1),
            norm=nn.BatchNorm2d(out_channels),
            act=nn.ReLU(),
        )
    )


class PlainCNN(nn.Module):
    """Stages of conv3x3 - BatchNorm - ReLU, 2x2 max pooling between them, then one or two linear layers.

    Stages are tapped before their pooling. PyTorch's default initialisation, no dropout, no global pooling.

    Args:
        size: Number of convolutions: 2, 4, 6, 8 or 10.
        num_classes: Number of classes C.
        in_channels: Channels of an image.
        image_size: Height and width of an image in pixels.
        variant: ``cifar10`` or ``cifar100``; ``auto`` is ``cifar100`` for 100 classes and ``cifar10`` otherwise.
        widths: Channels of each convolution in place of the variant's, as ``[4, 8]`` for a narrow plain2.

    Raises:
        ConfigError: No such size or variant, unfit widths, or the image is too small for the poolings.

    Source: Mirzadeh et al. 2020, arXiv:1902.03393, Sec. Experimental Setup, and its released code.
    """

    def __init__(
        self,
        size: int,
        *,
        num_classes: int,
        in_channels: int = 3,
        image_size: tuple[int, int] = (32, 32),
        variant: Literal["auto", "cifar10", "cifar100"] = "auto",
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if variant == "auto":
            variant = "cifar100" if num_classes == 100 else "cifar10"
        layout = choose_layout(size, variant, widths)
        if (side := layout.smallest_side) > min(image_size):
            fitting = [f"plain{s}" for s, other in LAYOUTS[variant].items() if other.smallest_side <= min(image_size)]
            raise ConfigError(
                f"plain{size} takes images of at least {side}x{side}, here {image_size[0]}x{image_size[1]}; "
                + (f"{', '.join(fitting)} can take them" if fitting else "no size of the family takes smaller than 4x4")
            )

        stages: list[nn.Sequential] = []
        self.taps = {"stem": Tap("stages.0.0")}
        for number, stage_widths in enumerate(layout.stages):
            inputs = (in_channels, *stage_widths)
            stages.append(nn.Sequential(*map(_convolution, inputs, stage_widths)))
            in_channels = stage_widths[-1]
            self.taps[f"stage{number + 1}"] = Tap(f"stages.{number}")
            self.taps[f"stage{number + 1}.preact"] = Tap(f"stages.{number}.{len(stage_widths) - 1}.act", "input")
        self.stages = nn.ModuleList(stages)
        self.pools = len(stages) - (not layout.last_pool)

        width = in_channels * (image_size[0] >> self.pools) * (image_size[1] >> self.pools)
        self.hidden = nn.Sequential(nn.Linear(width, layout.hidden), nn.ReLU()) if layout.hidden else nn.Identity()
        self.fc = nn.Linear(layout.hidden or width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, C)` of normalised images `(B, in_channels, H, W)`."""
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number < self.pools:
                x = nn.functional.max_pool2d(x, 2)
        return self.fc(self.hidden(x.flatten(1)))
