"""Networks of timm, with taps from its ``feature_info``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from kdbench.core.errors import ConfigError, nearest
from kdbench.core.types import DataSpec, Tap
from kdbench.models._pretrained import hub_file, require_hub, require_url, torch_file
from kdbench.models.network import Network
from kdbench.models.timm_registry import register_timm

# Arguments that load weights are not passed on: what determines weights stands in the recipe, not in a path.
_LOADERS = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def build_timm(name: str, config: Mapping[str, Any], data: DataSpec) -> Network:
    """The network ``config["model_name"]``, with ``pretrained`` weights if asked for and ``args`` passed on.

    ``img_size`` is passed to networks of a fixed input size, such as ViTs. Pretrained weights are adapted by timm: a
    head of other classes starts anew; a first convolution of one channel sums the weights over RGB, of others repeats
    them.

    Raises:
        ConfigError: No such network, its weights cannot be had, or it refuses an argument.
    """
    import timm

    register_timm()
    model_name, pretrained = str(config["model_name"]), bool(config.get("pretrained", False))
    settings = _settings(name, model_name)
    arguments: dict[str, Any] = {"num_classes": data.num_classes, "in_chans": data.input_shape[0]}
    if settings is not None and settings.fixed_input_size:
        arguments["img_size"] = data.input_shape[1:]
    arguments |= config.get("args") or {}
    if refused := [key for key in _LOADERS if key in arguments]:
        raise ConfigError(
            f"{name}: args.{refused[0]} is not passed on; weights come from pretrained=true or checkpoint=FILE"
        )
    if pretrained:
        arguments["pretrained_cfg_overlay"] = _weights(name, model_name, settings)
    try:
        body = timm.create_model(model_name, pretrained=pretrained, **arguments)
    except (TypeError, OSError) as error:
        raise ConfigError(f"{name}: timm refuses it: {str(error).splitlines()[0]}") from error

    statistics = settings if pretrained and settings and len(settings.mean) == data.input_shape[0] else data
    heads = _heads(body)
    return Network(
        body,
        name=name,
        num_classes=data.num_classes,
        mean=statistics.mean,
        std=statistics.std,
        taps=_taps(body),
        heads=heads,
    )


def _settings(name: str, model_name: str) -> Any:
    """What timm knows of the network and its weights, or None."""
    import timm
    from timm.models import get_pretrained_cfg

    if not timm.is_model(model_name):
        raise ConfigError(f"{name}: timm has no network {model_name!r}{nearest(model_name, timm.list_models())}")
    try:
        return get_pretrained_cfg(model_name)
    except RuntimeError as error:  # the part after the dot names no weights
        tagged = timm.list_pretrained(f"{model_name.partition('.')[0]}.*")
        raise ConfigError(f"{name}: timm has no weights {model_name!r}{nearest(model_name, tagged)}") from error


def _weights(name: str, model_name: str, settings: Any) -> dict[str, Any]:
    """What to tell timm of the weights: the cached file, so that it asks no network, else nothing."""
    import timm

    if settings is None or not (settings.hf_hub_id or settings.url):
        raise ConfigError(f"{name}: timm has no weights of {model_name!r}{nearest(model_name, timm.list_pretrained())}")
    if settings.hf_hub_id:
        names = ["model.safetensors", "pytorch_model.bin"]
        cached = hub_file(settings.hf_hub_id, [settings.hf_hub_filename] if settings.hf_hub_filename else names)
        if cached is None:
            require_hub(name)
    else:
        url = str(settings.url)
        cached = torch_file(url)
        if cached is None:
            require_url(name, url)
    return {} if cached is None else {"file": str(cached), "custom_load": settings.custom_load}


def _heads(body: Any) -> list[str]:
    declared = getattr(body, "pretrained_cfg", {}).get("classifier") or ()
    paths = [declared] if isinstance(declared, str) else list(declared)
    modules = dict(body.named_modules())
    return [path for path in paths if path in modules]


def _taps(body: Any) -> dict[str, Tap]:
    """Stem and stages; those that turn out not to carry a tensor are dropped after the dry pass."""
    info: Any = getattr(body, "feature_info", None) or []
    modules = dict(body.named_modules())
    entries = info.get_dicts() if hasattr(info, "get_dicts") else info
    paths = [entry["module"] for entry in entries if entry["module"] in modules]  # some families list what is not there
    taps = {}
    # Some families list their stem first (act1, bn1, stem), others begin with the first stage (stages.0, blocks.0).
    if paths and not paths[0].rpartition(".")[2].isdigit():
        taps["stem"] = Tap(paths.pop(0))
    elif isinstance(first := getattr(body, "pretrained_cfg", {}).get("first_conv"), str):
        taps["stem"] = Tap(first)
    for number, path in enumerate(paths, start=1):
        taps[f"stage{number}"] = Tap(path)
        if preact := _last_activation(modules[path]):
            taps[f"stage{number}.preact"] = Tap(f"{path}.{preact}", "input")
    return taps


def _last_activation(stage: nn.Module) -> str | None:
    """Path of the activation that ends a stage of ResNet blocks, whose input is the pre-activation."""
    from timm.models.resnet import BasicBlock, Bottleneck

    if not isinstance(stage, nn.Sequential) or not isinstance(stage[-1], BasicBlock | Bottleneck):
        return None
    return f"{len(stage) - 1}.{'act3' if isinstance(stage[-1], Bottleneck) else 'act2'}"
