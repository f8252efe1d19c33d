"""From a model's config to a network: ours, timm's, torchvision's, Hugging Face's, or any module by its path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.core.seeds import derive_seed
from kdbench.core.targets import check_arguments, resolve_target
from kdbench.core.types import DataSpec, Tap
from kdbench.models._huggingface import build_huggingface
from kdbench.models._timm import build_timm
from kdbench.models._torchvision import build_torchvision
from kdbench.models.network import Network, find_head
from kdbench.models.probe import dry_run

Builder = Callable[[str, Mapping[str, Any], DataSpec], Network]

# Targets of libraries that are built in a way of their own; every other one is a class.
FACTORIES: Mapping[str, Builder] = {
    "timm.create_model": build_timm,
    "torchvision.models.get_model": build_torchvision,
    "transformers.AutoModelForImageClassification": build_huggingface,
}
_SIDES = (4, 8, 16, 28, 32, 48, 64, 75, 96, 128, 224)  # image sizes to try when the given one does not fit
# What libraries raise for a wrong size.
_MISFITS = (RuntimeError, ValueError, AssertionError, IndexError, ZeroDivisionError)


def create_network(
    config: Mapping[str, Any], data: DataSpec, *, name: str, seed: int, trusted: Sequence[str] = ()
) -> Network:
    """Builds the network of ``config`` for ``data`` and proves by a dry pass that both fit.

    Weights are drawn from the stream ``init`` of ``seed``; the global random state is as before. In-place activations
    are switched off, which changes no number, so that every module can be tapped.

    Args:
        config: The component's resolved YAML: ``_target_``, its options, ``version``.
        data: Classes, shape of a sample, normalisation.
        name: The network's name, e.g. ``resnet20``.
        seed: The network's seed.
        trusted: Packages that the user opts in to.

    Raises:
        ConfigError: The target, an option, the image size or the classes do not fit, or weights cannot be had.
    """
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed every GPU as well
        torch.default_generator.manual_seed(derive_seed(seed, "init"))
        try:
            network = _build(config, data, name, trusted)
            logits, shapes = dry_run(network, data)
        except _MISFITS as error:
            if isinstance(error, ConfigError):
                raise
            raise _misfit(error, config, data, name, trusted) from error
    if logits.shape != (2, data.num_classes):
        raise ConfigError(
            f"{name}: gives {tuple(logits.shape)} for 2 samples, not (2, {data.num_classes}); "
            f"its last layer must have as many outputs as {data.name} has classes"
        )
    network.taps = _readable(network, shapes, guessed=config.get("_target_") in FACTORIES)
    return network


def _build(config: Mapping[str, Any], data: DataSpec, name: str, trusted: Sequence[str]) -> Network:
    builder = FACTORIES.get(config.get("_target_", ""))
    network = builder(name, config, data) if builder else _build_module(name, config, data, trusted)
    for module in network.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return network


def _build_module(name: str, config: Mapping[str, Any], data: DataSpec, trusted: Sequence[str]) -> Network:
    """A module class by its path; options stand in the config, or in its ``args``."""
    target = resolve_target(config.get("_target_"), base=nn.Module, trusted=trusted)
    options = {key: value for key, value in config.items() if key not in ("_target_", "version", "args")}
    options |= config.get("args") or {}
    known = {"num_classes": data.num_classes, "in_channels": data.input_shape[0], "image_size": data.input_shape[1:]}
    accepted = inspect.signature(target).parameters
    options = {key: value for key, value in known.items() if key in accepted} | options
    check_arguments(target, options, where=name)
    body = target(**options)
    head = find_head(body, data.num_classes)
    return Network(
        body,
        name=name,
        num_classes=data.num_classes,
        mean=data.mean,
        std=data.std,
        taps=getattr(body, "taps", {}),
        heads=() if head is None else (head,),
    )


def _readable(network: Network, shapes: Mapping[Tap, Any], *, guessed: bool) -> dict[str, Tap]:
    """The canonical taps that fire; a library's are guessed from its tables, a network's own must be right."""
    unreadable = [key for key, tap in network.taps.items() if tap not in shapes]
    if unreadable and not guessed:
        tap = network.taps[unreadable[0]]
        raise ConfigError(
            f"{network.name}: its tap {unreadable[0]!r} ({tap.path}, {tap.io}) cannot be read: "
            f"there is no such module, it does not fire exactly once, or its tensor is overwritten in place"
        )
    return {key: tap for key, tap in network.taps.items() if key not in unreadable}


def _misfit(
    error: Exception, config: Mapping[str, Any], data: DataSpec, name: str, trusted: Sequence[str]
) -> ConfigError:
    """What to tell of a network that does not take the samples: the smallest image size that it does take."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    shape = "x".join(map(str, data.input_shape))
    untrained = {**config, **{key: None for key in ("pretrained", "weights") if key in config}}
    for side in _SIDES if len(data.input_shape) == 3 else ():
        try:
            other = replace(data, input_shape=(data.input_shape[0], side, side))
            dry_run(_build(untrained, other, name, trusted), other)
        except _MISFITS:
            continue
        return ConfigError(
            f"{name} does not take images of {shape} ({reason}); "
            f"of the sizes tried, {side}x{side} is the smallest that fits"
        )
    return ConfigError(f"{name} does not take samples of {shape}: {reason}")
