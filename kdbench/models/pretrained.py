"""What libraries record of the weights that they publish; needs no download."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbench.models import _huggingface

HUGGING_FACE = "transformers.AutoModelForImageClassification"


def pretrained_identity(config: Mapping[str, Any]) -> str | None:
    """Which published weights a network starts from, as its library names them now; an upgrade may choose others.

    Args:
        config: A network's YAML.

    Returns:
        The hub's repository, or the address of the file, whose name holds a part of its hash, or the hash of a file in
        a folder; ``None`` where the network starts from none, or its library does not know them.
    """
    name = str(config.get("model_name"))
    if config["_target_"] == HUGGING_FACE and config.get("pretrained"):
        return _huggingface.published(name)
    if config["_target_"] == "timm.create_model" and config.get("pretrained"):
        from timm.models import get_pretrained_cfg, is_model

        known = get_pretrained_cfg(name) if is_model(name) else None
        place = None if known is None else known.hf_hub_id or known.url
        return str(place) if place else None
    if config["_target_"] == "torchvision.models.get_model" and config.get("weights"):
        weights = _torchvision_weights(name, config["weights"])
        return None if weights is None else weights.url
    return None


def pretrained_classes(config: Mapping[str, Any]) -> int | None:
    """Number of classes that a network's published weights were trained for, or ``None`` where nobody recorded it.

    Args:
        config: A network's YAML with ``pretrained`` (timm, Hugging Face) or ``weights`` (torchvision).
    """
    name = str(config.get("model_name"))
    if config["_target_"] == HUGGING_FACE:
        return _huggingface.classes(name)
    if config["_target_"] == "timm.create_model":
        from timm.models import get_pretrained_cfg, is_model

        known = get_pretrained_cfg(name) if is_model(name) else None
        return None if known is None else known.num_classes
    if config["_target_"] == "torchvision.models.get_model":
        known = _torchvision_weights(name, config["weights"])
        return None if known is None else len(known.meta.get("categories", ())) or None
    return None


def _torchvision_weights(name: str, chosen: str) -> Any:
    from torchvision.models import get_model_weights, list_models

    members = get_model_weights(name).__members__ if name in list_models() else {}
    return members.get(chosen)  # DEFAULT is an alias of one of them
