"""What libraries record of the weights that they publish; needs no download."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def pretrained_classes(config: Mapping[str, Any]) -> int | None:
    """Number of classes that a network's published weights were trained for, or ``None`` where nobody recorded it.

    Args:
        config: A network's YAML with ``pretrained`` (timm) or ``weights`` (torchvision).
    """
    name = str(config.get("model_name"))
    if config["_target_"] == "timm.create_model":
        from timm.models import get_pretrained_cfg, is_model

        known = get_pretrained_cfg(name) if is_model(name) else None
        return None if known is None else known.num_classes
    if config["_target_"] == "torchvision.models.get_model":
        from torchvision.models import get_model_weights, list_models

        if name not in list_models():
            return None
        weights = get_model_weights(name)
        chosen = config["weights"]
        known = (
            next((entry for entry in weights if entry.name == chosen), None)
            if chosen != "DEFAULT"
            else weights["DEFAULT"]
        )
        return None if known is None else len(known.meta.get("categories", ())) or None
    return None
