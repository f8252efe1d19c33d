"""Reading activations at named places of any network, by forward hooks on what is asked and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kdbench.core.errors import ConfigError, nearest
from kdbench.core.types import ModelOutput, Tap


def resolve_tap(network: nn.Module, name: str) -> Tap:
    """The place that ``name`` means in ``network``: one of its canonical taps, or any module path.

    Raises:
        ConfigError: Neither exists; the message names the nearest.
    """
    canonical: Mapping[str, Tap] = getattr(network, "taps", {})
    if name in canonical:
        return canonical[name]
    modules = {path for path, _ in network.named_modules() if path}
    if name in modules:
        return Tap(name)
    raise ConfigError(
        f"tap {name!r}: {type(network).__name__} has no such tap or module{nearest(name, [*canonical, *modules])}"
    )


def expand_taps(network: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """``names`` with those that stand for several replaced by what they mean in ``network``.

    ``stages`` is every stage, ``stages.preact`` each before its last activation, ``last_stage`` the deepest: so one
    config serves networks of any number of stages. ``last_map`` is nothing where no global average pooling follows.
    """
    canonical = getattr(network, "taps", {})
    stages = [name for name in canonical if re.fullmatch(r"stage\d+", name)]
    groups = {"stages": stages, "stages.preact": [f"{stage}.preact" for stage in stages], "last_stage": stages[-1:]}
    groups["last_map"] = ["last_map"] if "last_map" in canonical else []
    return tuple(tap for name in names for tap in groups.get(name, [name]))


class TapReader:
    """Calls a network and returns its logits with the activations at ``names``.

    The hooks live as long as the reader; :meth:`close` removes them. The network's code never learns of them.

    Args:
        network: Any module that maps inputs to logits `(B, C)`.
        names: Canonical tap names or module paths.

    Attributes:
        network: As given.
        names: The same, each once.

    Raises:
        ConfigError: A name means nothing in this network.
    """

    def __init__(self, network: nn.Module, names: Sequence[str] = ()) -> None:
        self.network = network
        self._features: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}
        self._reading = False
        self._handles: list[RemovableHandle] = []
        for name in dict.fromkeys(names):
            tap = resolve_tap(network, name)
            module = network.get_submodule(tap.path)
            self._handles.append(
                module.register_forward_pre_hook(self._input_hook(name))
                if tap.io == "input"
                else module.register_forward_hook(self._output_hook(name))
            )
        self.names = tuple(dict.fromkeys(names))

    def _keep(self, name: str, value: Any) -> None:
        if not self._reading:
            return  # somebody else runs the network, to measure it
        if not isinstance(value, Tensor):
            raise ConfigError(f"tap {name!r} carries a {type(value).__name__}, not a tensor; tap a module inside it")
        if name in self._features:
            raise ConfigError(
                f"tap {name!r} fired twice in one forward: its module is used more than once; "
                f"tap a module around it, or one of those it is called from"
            )
        self._features[name] = value
        self._versions[name] = value._version

    def _input_hook(self, name: str) -> Any:
        return lambda _module, args: self._keep(name, args[0])

    def _output_hook(self, name: str) -> Any:
        return lambda _module, _args, output: self._keep(name, output)

    def __call__(self, inputs: Tensor) -> ModelOutput:
        """One forward pass.

        Raises:
            ConfigError: A tap did not fire, fired twice, or its tensor was overwritten in place afterwards.
        """
        self._features, self._versions = {}, {}
        self._reading = True
        try:
            logits = self.network(inputs)
        finally:
            self._reading = False
        features = {}
        for name in self.names:
            if name not in self._features:
                raise ConfigError(f"tap {name!r} did not fire: its module is not used in the forward pass")
            value = self._features[name]
            if value._version != self._versions[name]:
                raise ConfigError(
                    f"tap {name!r} was overwritten in place after it was read (an in-place ReLU follows?); "
                    f"tap the module after it, or build the network without in-place activations"
                )
            features[name] = value
        self._features = {}
        return ModelOutput(logits, features, self)

    def close(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
