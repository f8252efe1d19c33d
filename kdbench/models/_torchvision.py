"""Networks of torchvision, with taps from a small table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from kdbench.core.errors import ConfigError, nearest
from kdbench.core.types import DataSpec, Tap
from kdbench.models._pretrained import require_url, torch_file
from kdbench.models.network import Network, find_head

# By the network's class: the stem, and a pattern of the paths of its stages.
_STAGES = {
    "ConvNeXt": ("features.0", r"features\.[1357]"),
    "DenseNet": ("features.relu0", r"features\.denseblock\d"),
    "MobileNetV2": ("features.0", r"features\.(1|3|6|13|17)"),
    "RegNet": ("stem", r"trunk_output\.block\d"),
    "ResNet": ("relu", r"layer\d"),
    "ShuffleNetV2": ("conv1", r"stage\d"),
    "SwinTransformer": ("features.0", r"features\.[1357]"),
    "VisionTransformer": ("conv_proj", r"encoder\.layers\.encoder_layer_\d+"),
}


def build_torchvision(name: str, config: Mapping[str, Any], data: DataSpec) -> Network:
    """The network ``config["model_name"]``, with ``weights`` if asked for and ``args`` passed on.

    Weights of other classes keep all but the head. For other channels than RGB the first convolution is replaced: from
    weights by timm's rule (one channel sums over RGB, others repeat), without weights by PyTorch's default.

    Raises:
        ConfigError: No such network or weights, they cannot be had, or the network refuses an argument.
    """
    from torchvision import models

    model_name = str(config["model_name"])
    names = models.list_models(module=models)
    if model_name not in names:
        raise ConfigError(f"{name}: torchvision has no network {model_name!r}{nearest(model_name, names)}")
    weights = _weights(name, model_name, config.get("weights"))
    arguments: dict[str, Any] = {} if weights is not None else {"num_classes": data.num_classes}
    if weights is None and model_name.startswith("vit_"):
        arguments["image_size"] = data.input_shape[1]
    if weights is None and model_name in ("googlenet", "inception_v3"):
        # Auxiliary heads need large images, and nothing reads them.
        arguments |= {"aux_logits": False, "init_weights": True}
    try:
        body = models.get_model(model_name, weights=weights, **(arguments | (config.get("args") or {})))
    except (TypeError, ValueError, OSError) as error:
        raise ConfigError(f"{name}: torchvision refuses it: {str(error).splitlines()[0]}") from error

    classes = data.num_classes if weights is None else len(weights.meta["categories"])
    head = find_head(body, classes)
    if classes != data.num_classes:
        _replace_head(name, body, head, data.num_classes)
    if (channels := data.input_shape[0]) != 3:
        _replace_first_convolution(body, channels, keep=weights is not None)
    statistics = data if weights is None or channels != 3 else weights.transforms()
    return Network(
        body,
        name=name,
        num_classes=data.num_classes,
        mean=statistics.mean,
        std=statistics.std,
        taps=_taps(body),
        heads=[head] if head else [],
    )


def _weights(name: str, model_name: str, asked: str | None) -> Any:
    from torchvision import models

    if asked is None:
        return None
    available = models.get_model_weights(model_name)
    if asked not in available.__members__:
        raise ConfigError(f"{name}: torchvision has no weights {asked!r}{nearest(asked, available.__members__)}")
    weights = available[asked]
    if torch_file(weights.url) is None:
        require_url(name, weights.url)
    return weights


def _taps(body: nn.Module) -> dict[str, Tap]:
    if type(body).__name__ not in _STAGES:
        return {}
    stem, pattern = _STAGES[type(body).__name__]
    stages = [path for path, _ in body.named_modules() if re.fullmatch(pattern, path)]
    return {"stem": Tap(stem)} | {f"stage{number}": Tap(path) for number, path in enumerate(stages, start=1)}


def _replace_head(name: str, body: nn.Module, head: str | None, num_classes: int) -> None:
    if head is None:
        raise ConfigError(
            f"{name}: its classifier is not linear and cannot take {num_classes} classes; use timm's or no weights"
        )
    old = body.get_submodule(head)
    assert isinstance(old, nn.Linear)
    body.set_submodule(head, nn.Linear(old.in_features, num_classes, bias=old.bias is not None))


def _replace_first_convolution(body: nn.Module, channels: int, *, keep: bool) -> None:
    from timm.models import adapt_input_conv

    path, old = next((path, module) for path, module in body.named_modules() if isinstance(module, nn.Conv2d))
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # pyright: ignore[reportArgumentType]
        old.stride,  # pyright: ignore[reportArgumentType]
        old.padding,  # pyright: ignore[reportArgumentType]
        bias=old.bias is not None,
    )
    if keep:
        new.weight.data = adapt_input_conv(channels, old.weight.data)
        if old.bias is not None and new.bias is not None:
            new.bias.data = old.bias.data
    body.set_submodule(path, new)
