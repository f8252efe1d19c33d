"""Our networks under timm's roof: ``timm.create_model("kdbench_resnet20", num_classes=100)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.models.cifar_resnet import CifarResNet
from kdbench.models.plain_cnn import PlainCNN

__all__ = ["register_timm"]

_RESNETS = (8, 14, 20, 26, 32, 44, 56, 110)
_PLAINS = (2, 4, 6, 8, 10)


def register_timm() -> None:
    """Adds our networks to timm's registry, once; prefixed, as timm has names such as ``resnet26`` of its own."""
    import timm

    if timm.is_model("kdbench_plain2"):
        return
    for depth in _RESNETS:
        _register(f"kdbench_resnet{depth}", _resnet, depth)
    for size in _PLAINS:
        _register(f"kdbench_plain{size}", PlainCNN, size)


def _resnet(depth: int, *, image_size: tuple[int, int], **options: Any) -> CifarResNet:
    return CifarResNet(depth, **options)  # takes images of any size


def _register(name: str, build: Callable[..., nn.Module], size: int) -> None:
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
        image_size = (img_size, img_size) if isinstance(img_size, int) else img_size
        return build(size, num_classes=num_classes, in_channels=in_chans, image_size=image_size, **options)

    entrypoint.__name__ = name
    register_model(entrypoint)
