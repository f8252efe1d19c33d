"""Our networks under timm's roof: ``timm.create_model("kdbench_resnet20", num_classes=100)``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.models.cifar_resnet import CifarResNet
from kdbench.models.densenet_bc import DenseNetBC
from kdbench.models.four_stage_resnet import FourStageResNet
from kdbench.models.mobilenet_v2 import MobileNetV2
from kdbench.models.plain_cnn import PlainCNN
from kdbench.models.shufflenet_v1 import ShuffleNetV1
from kdbench.models.shufflenet_v2 import ShuffleNetV2
from kdbench.models.vgg import VGG
from kdbench.models.wrn import WideResNet

__all__ = ["register_timm"]

_X4 = (32, 64, 128, 256)
_FOUR_STAGES = {"blocks": (3, 4, 6, 3), "widths": (64, 64, 128, 256, 512)}

# As in configs/model, which cannot be read from here; a test compares them.
_NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    **{f"plain{size}": partial(PlainCNN, size) for size in (2, 4, 6, 8, 10)},
    "plain2_narrow": partial(PlainCNN, 2, widths=(4, 8)),
    **{f"resnet{depth}": partial(CifarResNet, depth) for depth in (8, 14, 20, 26, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": partial(CifarResNet, depth, widths=_X4) for depth in (8, 32)},
    **{f"wrn_{depth}_{width}": partial(WideResNet, depth, width) for depth in (16, 40) for width in (1, 2)},
    "resnet34": partial(FourStageResNet, "basic", **_FOUR_STAGES),
    "ResNet50": partial(FourStageResNet, "bottleneck", **_FOUR_STAGES),
    "vgg8": partial(VGG, ((64,), (128,), (256,), (512,), (512,))),
    "vgg13": partial(VGG, ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2)),
    "MobileNetV2": partial(MobileNetV2, 0.5),
    "ShuffleV1": partial(ShuffleNetV1, (240, 480, 960), 3),
    "ShuffleV2": partial(ShuffleNetV2, (116, 232, 464, 1024)),
    "ShuffleV2x1_5": partial(ShuffleNetV2, (176, 352, 704, 1024)),  # timm takes what follows a dot for weights
    "densenet_bc_100_12": partial(DenseNetBC, 100, 12, 0.5),
}


def register_timm() -> None:
    """Adds our networks to timm's registry, once; prefixed, as timm has names such as ``resnet26`` of its own."""
    import timm

    if timm.is_model("kdbench_plain2"):
        return
    for name, build in _NETWORKS.items():
        _register(f"kdbench_{name}", build)


def _register(name: str, build: Callable[..., nn.Module]) -> None:
    from timm.models import register_model

    def entrypoint(
        pretrained: bool = False,
        num_classes: int = 10,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 32,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: Any = None,
        **options: Any,
    ) -> nn.Module:
        if pretrained:
            raise ConfigError(f"{name}: there are no published weights; train it, or give a file with checkpoint=FILE")
        if "image_size" in inspect.signature(build).parameters:  # the others take images of any size
            options["image_size"] = (img_size, img_size) if isinstance(img_size, int) else img_size
        return build(num_classes=num_classes, in_channels=in_chans, **options)

    entrypoint.__name__ = name
    register_model(entrypoint)
