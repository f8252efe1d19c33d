"""The same network with less traffic through memory: ReLUs in place, BatchNorms as parts of convolutions."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from kdbench.core.taps import TapReader
from kdbench.core.types import ModelOutput

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Operations whose gradient needs nothing of what they gave: it may be overwritten.
_FORGETFUL = ("ConvolutionBackward0", "NativeBatchNormBackward0", "CudnnBatchNormBackward0", "AddBackward0",
              "AddmmBackward0")  # fmt: skip
_TOLERANCE = 1e-3  # part of the largest value: rounding stays far below it, another function far above


class _Normalised(NamedTuple):
    conv: Any
    norm: Any
    between: Tensor


def relus_in_place(reader: TapReader, samples: Tensor) -> list[str]:
    """Lets ReLUs of a network in training overwrite what they get, where nobody else reads it; no bit changes.

    Found out on a copy, in train mode: the network itself does not run.

    Args:
        reader: Of the network, with all taps that are read while it trains.
        samples: Two or more of its inputs, `(B, ...)` float32.

    Returns:
        Paths of the ReLUs that work in place now.
    """
    if not any(type(module) is nn.ReLU for module in reader.network.modules()):
        return []
    twin = copy.deepcopy(reader.network).train()
    with torch.random.fork_rng(devices=[]):
        trial = _Trial(TapReader(twin, reader.names), samples)
    paths = [path for path, module in twin.named_modules() if module in trial.relus]
    set_in_place(reader.network, paths, True)
    return paths


def set_in_place(network: nn.Module, paths: Sequence[str], in_place: bool) -> None:
    """Whether the ReLUs at ``paths`` overwrite what they get."""
    for path in paths:
        relu = network.get_submodule(path)
        assert isinstance(relu, nn.ReLU)
        relu.inplace = in_place


def optimize_for_inference(reader: TapReader, samples: Tensor) -> int:
    r"""Makes BatchNorms of a teacher parts of the convolutions before them, and its ReLUs work in place.

    .. math:: \gamma \, \frac{(W * x + b) - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta = (s W) * x + s (b - \mu) + \beta,
        \qquad s = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}

    Equal up to rounding, and only where nobody else sees what a convolution gives. A BatchNorm stays, with all that can
    be read from it, and returns what it gets. Logits and taps are compared with what they were: where they differ, all
    is put back.

    Args:
        reader: Of a frozen network in eval mode that nobody will train, with all taps that are read.
        samples: Some of its inputs, `(B, ...)` float32.

    Returns:
        Number of BatchNorms that became parts of convolutions.
    """
    if not any(type(module) in (*_NORMS, nn.ReLU) for module in reader.network.modules()):
        return 0
    trial = _Trial(reader, samples)
    weights = [(conv.weight, conv.bias) for conv, *_ in trial.norms]
    for conv, norm, _ in trial.norms:
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        norm.forward = _as_it_is
    for relu in trial.relus:
        relu.inplace = True
    with torch.no_grad():
        if _equal(trial.output, reader(samples)):
            return len(trial.norms)
    for relu in trial.relus:
        relu.inplace = False
    for (conv, norm, _), (weight, bias) in zip(trial.norms, weights, strict=True):
        conv.weight, conv.bias = weight, bias
        del norm.forward
    return 0


def _as_it_is(x: Tensor) -> Tensor:
    return x


class _Trial:
    """One forward pass with gradient, and what it shows: which activations have one reader only.

    Attributes:
        output: What the network gave.
        norms: BatchNorms that alone see what a convolution gives; each of the two runs once.
        relus: Those that alone see all that they get, and could overwrite it.
    """

    def __init__(self, reader: TapReader, samples: Tensor) -> None:
        self._ran: Counter[nn.Module] = Counter()
        self._given: dict[int, tuple[nn.Module, Tensor]] = {}  # by its identity, for which it is kept alive
        self._normalised: list[_Normalised] = []
        self._rectified: dict[nn.ReLU, list[Tensor]] = {}
        handles = [handle for module in reader.network.modules() for handle in self._watch(module)]
        try:
            self.output = reader(samples.clone().requires_grad_())
        finally:
            for handle in handles:
                handle.remove()
        self._shown = [self.output.logits, *self.output.features.values()]
        self._users = _users(self._shown)
        self.norms = [each for each in self._normalised
                      if self._ran[each.conv] == self._ran[each.norm] == 1 and self._alone(each.between)]  # fmt: skip
        self.relus = [relu for relu, got in self._rectified.items()
                      if not relu.inplace and all(self._alone(each) and _forgotten(each) for each in got)]  # fmt: skip

    def _watch(self, module: nn.Module) -> list[Any]:
        if type(module) in _CONVOLUTIONS:
            return [module.register_forward_hook(self._after_convolution)]
        if type(module) in _NORMS and module.running_mean is not None:
            return [module.register_forward_pre_hook(self._before_norm)]
        if type(module) is nn.ReLU:
            return [module.register_forward_pre_hook(self._before_relu)]
        return []

    def _after_convolution(self, conv: nn.Module, _args: Any, output: Tensor) -> None:
        self._ran[conv] += 1
        self._given[id(output)] = conv, output

    def _before_norm(self, norm: nn.Module, args: tuple[Tensor]) -> None:
        self._ran[norm] += 1
        if id(args[0]) in self._given:
            conv, between = self._given[id(args[0])]
            self._normalised.append(_Normalised(conv, norm, between))

    def _before_relu(self, relu: nn.Module, args: tuple[Tensor]) -> None:
        assert isinstance(relu, nn.ReLU)
        self._rectified.setdefault(relu, []).append(args[0])

    def _alone(self, between: Tensor) -> bool:
        return self._users[between.grad_fn] == 1 and not any(between is each for each in self._shown)


def _users(results: Sequence[Tensor]) -> Counter[Any]:
    """Of each node of the graph that led to ``results``, the number of operations that take what it gave."""
    users: Counter[Any] = Counter()
    known = {result.grad_fn for result in results if result.grad_fn is not None}
    waiting = list(known)
    while waiting:
        following = [node for node, _ in waiting.pop().next_functions if node is not None]
        users.update(following)
        waiting += {*following} - known
        known |= {*following}
    return users


def _forgotten(value: Tensor) -> bool:
    return value.grad_fn is not None and value.grad_fn.name() in _FORGETFUL


def _equal(before: ModelOutput, after: ModelOutput) -> bool:
    pairs = [(before.logits, after.logits), *((one, after.features[name]) for name, one in before.features.items())]
    return all(bool((one - two).abs().max() <= _TOLERANCE * one.abs().max()) for one, two in pairs)
