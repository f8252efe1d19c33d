"""What several networks are built from: convolutions, their first weights, and checks of sizes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from kdbench.core.errors import ConfigError


def conv(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, *, groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    """A convolution of odd ``kernel``, padded so that nothing but the stride changes the image's size."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)


def conv_norm(convolution: nn.Conv2d, *, act: bool = True) -> nn.Sequential:
    """``convolution`` - BatchNorm - ReLU, as submodules ``conv``, ``norm``, ``act``; the last only where asked for."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=convolution, norm=nn.BatchNorm2d(convolution.out_channels))
    if act:
        layers["act"] = nn.ReLU()
    return nn.Sequential(layers)


def start_from_fan_out(network: nn.Module) -> None:
    r"""Draws every convolution from :math:`N(0, 2 / (k^2 \cdot \mathrm{out}))`, whatever its groups; biases become 0.

    Source: He et al. 2015, arXiv:1502.01852, Eq. 14.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_sizes(name: str, option: str, values: Sequence[int], meaning: str, count: int) -> None:
    """Refuses ``values`` that are not ``count`` positive numbers.

    Raises:
        ConfigError: It names the network, the option, and what each number means.
    """
    if len(values) != count or min(values) < 1:
        raise ConfigError(f"{name}: {option}={list(values)}, {count} positive numbers are needed: {meaning}")


def repeats_of(name: str, depth: int) -> int:
    r"""How often a unit of two convolutions stands in each of three stages, :math:`n = (\mathrm{depth} - 4) / 6`.

    Raises:
        ConfigError: The depth is not of that form; the message names the next smaller one that is.
    """
    repeats, remainder = divmod(depth - 4, 6)
    if remainder or repeats < 1:
        raise ConfigError(f"{name}: depth={depth} must be 6n + 4; near it is {6 * max(repeats, 1) + 4}")
    return repeats
