"""Image classifiers of the Hugging Face hub, or of a folder in its format, by transformers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import DataSpec, Tap
from kdbench.models._pretrained import hub_file, require_hub
from kdbench.models.network import Network, find_head

_INSTALL = "hf/NAME needs the package transformers: pip install 'kdbench[huggingface]'"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
# Stem and stages by their usual places: those that do not fire once, or give no tensor, are dropped after the dry pass.
_STEM = r"(\w+\.)?(embedder|embeddings|conv_stem)"
_STAGE = r"(\w+\.)?(encoder\.)?(stages|blocks|layers?)\.(\d+)"


def build_huggingface(name: str, config: Mapping[str, Any], data: DataSpec) -> Network:
    """``config["model_name"]``: ``OWNER/NAME``, ``OWNER/NAME@REVISION`` or a folder; ``args`` go to its configuration.

    With ``pretrained`` its weights are loaded; a head of other classes starts anew.

    Raises:
        ConfigError: transformers is not installed, refuses the network or an argument, weights cannot be had, or they
            are for images of other channels.
    """
    try:
        from transformers import AutoConfig, AutoModelForImageClassification
        from transformers.utils import logging
    except ImportError as error:
        raise ConfigError(f"{name}: {_INSTALL}") from error
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    place, pretrained = str(config["model_name"]), bool(config["pretrained"])
    repository, _, revision = (place, "", "") if Path(place).is_dir() else place.partition("@")
    options: dict[str, Any] = {"revision": revision or None}
    if not Path(place).is_dir():
        wanted = [("config.json",), *([_WEIGHTS] if pretrained else [])]
        options["local_files_only"] = all(hub_file(place, files) is not None for files in wanted)
        if not options["local_files_only"]:
            require_hub(name)
    try:
        settings = AutoConfig.from_pretrained(repository, **options, num_labels=data.num_classes)
        for key, value in (config.get("args") or {}).items():
            if not hasattr(settings, key):
                raise ConfigError(f"{name}: args.{key} is no option of {type(settings).__name__}")
            setattr(settings, key, value)
        _fit_channels(name, settings, data, pretrained=pretrained)
        body: nn.Module
        if pretrained:
            body = AutoModelForImageClassification.from_pretrained(
                repository, config=settings, ignore_mismatched_sizes=True, **options
            )
        else:
            body = AutoModelForImageClassification.from_config(settings)
    except (OSError, ValueError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{name}: transformers refuses it: {reason}") from error
    mean, std = (_statistics(place) if pretrained else None) or (data.mean, data.std)
    head = find_head(body, data.num_classes)
    return Network(
        body,
        name=name,
        num_classes=data.num_classes,
        mean=mean,
        std=std,
        taps=_taps(body),
        heads=() if head is None else (head,),
    )


def published(place: str) -> str:
    """What the weights of a ``model_name`` are known by: the hub's name, or the content of a folder."""
    if not (folder := Path(place)).is_dir():
        return place
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("config.json")]):
        digest.update(file.read_bytes())
    return f"sha256:{digest.hexdigest()}"


def classes(place: str) -> int | None:
    """How many classes the weights of a ``model_name`` are for, as its ``config.json`` says, where that is at hand."""
    return len((_read(place, "config.json") or {}).get("id2label") or ()) or None


def _fit_channels(name: str, settings: Any, data: DataSpec, *, pretrained: bool) -> None:
    channels, has = data.input_shape[0], getattr(settings, "num_channels", None)
    if has in (None, channels):
        return
    if pretrained:
        raise ConfigError(f"{name}: its weights are for images of {has} channels, those of {data.name} have "
                          f"{channels}; use pretrained=false")  # fmt: skip
    settings.num_channels = channels


def _read(place: str, filename: str) -> dict[str, Any] | None:
    file = Path(place) / filename if Path(place).is_dir() else hub_file(place, [filename])
    return json.loads(file.read_text()) if file is not None and file.is_file() else None


def _statistics(place: str) -> tuple[list[float], list[float]] | None:
    """How the published weights expect images to be normalised."""
    found = _read(place, "preprocessor_config.json") or {}
    if not found.get("do_normalize", True) or not {"image_mean", "image_std"} <= found.keys():
        return None
    return found["image_mean"], found["image_std"]


def _taps(body: nn.Module) -> dict[str, Tap]:
    paths = [path for path, _ in body.named_modules()]
    stem = next((path for path in paths if re.fullmatch(_STEM, path)), None)
    stages = [path for path in paths if re.fullmatch(_STAGE, path)]
    taps = {} if stem is None else {"stem": Tap(stem)}
    return taps | {f"stage{number}": Tap(path) for number, path in enumerate(stages, start=1)}
