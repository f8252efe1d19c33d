"""Finding shapes by running a network once, so that no list of channels is ever written by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdbench.core.taps import TapReader, resolve_tap
from kdbench.core.types import DataSpec, NetworkSpec, Tap
from kdbench.models.network import Network

# What networks, ours and others', call the way around a block: it may run last, but tells nothing of the block's sum.
_SHORTCUTS = {"shortcut", "downsample"}


class TapRow(NamedTuple):
    """One place of a network that can be tapped.

    Attributes:
        name: What to write in a config.
        path: The module's path.
        io: ``output`` or ``input``.
        shape: Of its activation, without the batch dimension.
    """

    name: str
    path: str
    io: str
    shape: tuple[int, ...]


def probe(network: Network, names: Sequence[str], data: DataSpec) -> NetworkSpec:
    """Shapes of the taps ``names``, by one forward pass that leaves no trace.

    Modes, BatchNorm statistics and the random state are as before.

    Raises:
        ConfigError: A name means nothing in this network, or its place cannot be tapped.
    """
    with _last_norms(network, names) as norms:
        reader = TapReader(network, names)
        try:
            with _dry(network):
                features = reader(_samples(network, data)).features
        finally:
            reader.close()
    head = network.get_submodule(network.head) if network.head else None
    shapes = {name: tuple(features[name].shape[1:]) for name in names}
    norms = {name: norm for name, norm in norms.items() if (norm.num_features,) == shapes[name][:1]}
    head = head if isinstance(head, nn.Linear) else None
    return NetworkSpec(network.name, network.num_classes, shapes, head, norms, network)


@contextmanager
def _last_norms(network: Network, names: Sequence[str]) -> Iterator[dict[str, nn.BatchNorm2d]]:
    """Filled by a forward pass inside it: the BatchNorm that ran last before each tap, or at it."""
    ran: list[nn.BatchNorm2d] = []
    found: dict[str, nn.BatchNorm2d] = {}

    def keep(name: str) -> None:
        if ran:
            found[name] = ran[-1]

    handles = [module.register_forward_hook(lambda *_, norm=module: ran.append(norm))
               for path, module in network.named_modules()
               if isinstance(module, nn.BatchNorm2d) and not _SHORTCUTS & set(path.split("."))]  # fmt: skip
    try:
        for name in names:
            tap = resolve_tap(network, name)
            module = network.get_submodule(tap.path)
            register = module.register_forward_pre_hook if tap.io == "input" else module.register_forward_hook
            # Registered after the norm's own hook, which therefore runs first where the tap is a norm.
            handles.append(register(lambda *_, name=name: keep(name)))
        yield found
    finally:
        for handle in handles:
            handle.remove()


def describe_taps(network: Network, data: DataSpec) -> list[TapRow]:
    """Everything in ``network`` that can be tapped: canonical taps first, then every module in order of its path."""
    _, shapes = dry_run(network, data)
    named = [(name, tap) for name, tap in network.taps.items() if tap in shapes]
    named += [(path, Tap(path)) for path, _ in network.named_modules() if Tap(path) in shapes]
    return [TapRow(name, tap.path, tap.io, shapes[tap]) for name, tap in named]


def modules_after(network: Network, taps: Sequence[str], data: DataSpec) -> tuple[str, ...]:
    """Paths of the modules that a forward pass begins only when it has passed all of ``taps``."""
    order = list(dry_run(network, data)[1])
    last = max(order.index(resolve_tap(network, name)) for name in taps)
    return tuple(tap.path for tap in order[last + 1 :] if tap.io == "input")


def dry_run(network: Network, data: DataSpec) -> tuple[Tensor, dict[Tap, tuple[int, ...]]]:
    """Logits `(2, C)` of two grey samples, and the shape at every place that can be tapped.

    Left out is what :class:`TapReader` would refuse: a module that fires twice, or carries no tensor, or one that is
    overwritten in place.
    """
    seen: dict[Tap, tuple[Any, int]] = {}
    fired: Counter[Tap] = Counter()

    def keep(tap: Tap, value: Any) -> None:
        fired[tap] += 1
        seen[tap] = (value, value._version if isinstance(value, Tensor) else 0)

    def hook(path: str, module: nn.Module) -> None:
        handles.append(module.register_forward_pre_hook(lambda _, args: keep(Tap(path, "input"), args and args[0])))
        handles.append(module.register_forward_hook(lambda _, args, output: keep(Tap(path), output)))

    handles: list[Any] = []
    try:
        for path, module in network.named_modules():
            if path:
                hook(path, module)
        with _dry(network):
            logits = network(_samples(network, data))
    finally:
        for handle in handles:
            handle.remove()
    return logits, {
        tap: tuple(value.shape[1:])
        for tap, (value, version) in seen.items()
        if isinstance(value, Tensor) and value._version == version and fired[tap] == 1
    }


@contextmanager
def _dry(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _samples(network: Network, data: DataSpec) -> Tensor:
    return torch.full((2, *data.input_shape), 0.5, device=network.mean.device)
