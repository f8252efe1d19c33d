"""Weights in and out of networks. Nothing here runs code that a file contains."""

from __future__ import annotations

import pickle
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.models.foreign import translated
from kdbench.models.network import Network

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "model.", "body.")  # of DataParallel, of a network inside another, of ours
_STATISTICS = ("mean", "std")


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file: safetensors, or what ``torch.save`` wrote, unwrapped from training state around them.

    Prefixes that all names share (``module.``, ``model.``, ``body.``) are stripped.

    Raises:
        ConfigError: There is no such file, it is damaged or of another format, it holds pickled code (which is not
            run), or anything but named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"checkpoint {path}: there is no such file")
    state = _load(path)
    while isinstance(state, Mapping) and (inner := [key for key in _WRAPPERS if isinstance(state.get(key), Mapping)]):
        state = state[inner[0]]
    if not isinstance(state, Mapping) or not state:
        raise ConfigError(f"checkpoint {path}: holds a {type(state).__name__}, named tensors are expected")
    if odd := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        raise ConfigError(f"checkpoint {path}: {odd[0]!r} is a {type(state[odd[0]]).__name__}, not a tensor")
    return _stripped(state)


def load_weights(network: Network, state: Mapping[str, Tensor], *, head: Literal["load", "new"]) -> None:
    """Fills the network's body with ``state``: all of it, or nothing and an error.

    Names may or may not begin with ``body.``, or be those of other projects' files (:mod:`kdbench.models.foreign`). A
    state from :func:`export_state` restores the normalisation as well.

    Args:
        network: Changed in place.
        state: Named tensors.
        head: ``new`` leaves the network's own classifier as it is and ignores the file's.

    Raises:
        ConfigError: A name is missing or too much, or a shape differs; the message names the first.
    """
    own, given = network.body.state_dict(), _aligned(network, state)
    if head == "new":
        known_heads(network)
        given = {key: value for key, value in given.items() if not _in_head(network, key)}
        given |= {key: value for key, value in own.items() if _in_head(network, key)}
    for what, keys in (("lack", own.keys() - given.keys()), ("have an unknown", given.keys() - own.keys())):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ConfigError(f"{network.name}: the weights {what} {min(keys)!r}{more}; they are of another network")
    for key, value in own.items():
        if value.shape != given[key].shape:
            fix = "a new head can be trained instead" if _in_head(network, key) else "they are of another network"
            raise ConfigError(
                f"{network.name}: {key} is {tuple(given[key].shape)} in the weights, {tuple(value.shape)} here; {fix}"
            )
    network.body.load_state_dict(given)
    if _is_export(state):
        network.load_state_dict({key: state[key] for key in _STATISTICS if key in state}, strict=False)


def classes_of(state: Mapping[str, Tensor], network: Network) -> int | None:
    """Number of classes of the head in ``state``, or None if the network's head is unknown or not in it."""
    if network.head is None:
        return None
    weight = _aligned(network, state).get(f"{network.head.removeprefix('body.')}.weight")
    return None if weight is None else len(weight)


def export_state(network: nn.Module) -> dict[str, Tensor]:
    """The network's state as safetensors takes it: contiguous, and no two names share memory."""
    return {
        key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in network.state_dict().items()
    }


def _load(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([Namespace]):  # a script's options beside its weights; bare data
            return torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"checkpoint {path}: no file of weights, or it holds pickled objects, which could run code; "
            f"save the state_dict() alone, best as safetensors"
        ) from error
    except Exception as error:  # damaged bytes make torch's reader raise nearly anything
        raise ConfigError(f"checkpoint {path}: damaged, or neither safetensors nor what torch.save writes") from error


def _stripped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            return _stripped({key.removeprefix(prefix): value for key, value in state.items()})
    return dict(state)


def _is_export(state: Mapping[str, Tensor]) -> bool:
    """Whether ``state`` is of a whole :class:`Network`: a body and the normalisation."""
    return any(key.startswith("body.") for key in state) and all(
        key.startswith("body.") or key in _STATISTICS for key in state
    )


def _aligned(network: Network, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` under the names that the body uses, whoever wrote it; a body may itself have a prefix of all names."""
    if _is_export(state):
        state = {key: value for key, value in state.items() if key not in _STATISTICS}
    own = network.body.state_dict()
    names = dict(zip(_stripped(own), own, strict=True))
    given = translated(_stripped(state), network.body)
    return {names.get(key, key): value for key, value in given.items()}


def known_heads(network: Network) -> tuple[str, ...]:
    """Paths of the classifier's modules: what ``train=head`` trains.

    Raises:
        ConfigError: They are unknown.
    """
    if not network.heads:
        raise ConfigError(
            f"{network.name}: which module is its classifier is unknown, so that it cannot be replaced or trained alone"
        )
    return network.heads


def _in_head(network: Network, key: str) -> bool:
    return any(f"body.{key}".startswith(f"{path}.") for path in network.heads)
