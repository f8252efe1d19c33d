"""VGG networks for small images: ``vgg8``, ``vgg13``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Tap
from kdbench.models._layers import conv, conv_norm, start_from_fan_out

_POOLS = 3  # always; the fourth only where the image is large enough to need it
_LARGE = 64  # pixels


class VGG(nn.Module):
    r"""Five stages of conv3x3 - BatchNorm - ReLU, 2x2 max pooling after the first three, then global average pooling.

    Images of 64 pixels are pooled after the fourth stage as well. The first stage is the stem; all are tapped before
    their pooling. Convolutions have a bias and start at :math:`N(0, 2 / (k^2 \cdot \mathrm{out}))`, the classifier at
    :math:`N(0, 0.01^2)`, biases at 0.

    Args:
        stages: Channels of each convolution, by stage: ``[[64], [128], [256], [512], [512]]`` makes vgg8.
        num_classes: Number of classes C.
        in_channels: Channels of an image.

    Raises:
        ConfigError: There are not five stages, or a stage is empty.

    Source: Simonyan & Zisserman 2015, arXiv:1409.1556, Table 1, as in the code released with Tian et al. 2020,
        arXiv:1910.10699.
    Differs from: Simonyan & Zisserman: BatchNorm; two poolings fewer; one linear layer in place of three; vgg8 has one
        convolution per stage.
    """

    def __init__(self, stages: Sequence[Sequence[int]], *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        if len(stages) != 5 or not all(stages):
            raise ConfigError(f"vgg: stages={list(stages)}, five lists of channels are needed, none of them empty")
        self.taps = {"stem": Tap("stages.0")}
        built: list[nn.Sequential] = []
        for number, widths in enumerate(stages):
            channels = pairwise((in_channels, *widths))
            built.append(nn.Sequential(*(conv_norm(conv(*pair, bias=True)) for pair in channels)))
            in_channels = widths[-1]
            if number:
                self.taps[f"stage{number}"] = Tap(f"stages.{number}")
                self.taps[f"stage{number}.preact"] = Tap(f"stages.{number}.{len(widths) - 1}.act", "input")
        self.stages = nn.ModuleList(built)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_channels, num_classes)
        start_from_fan_out(self)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, C)` of normalised images `(B, in_channels, H, W)`."""
        pools = _POOLS + (x.shape[2] == _LARGE)
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number < pools:
                x = nn.functional.max_pool2d(x, 2)
        return self.fc(self.pool(x).flatten(1))
