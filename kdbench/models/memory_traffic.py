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
from kdbench.core.targets import ROOTS
from kdbench.core.types import DataSpec, ModelOutput
from kdbench.models.network import Network

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Operations whose gradient needs nothing of what they gave: it may be overwritten.
_CONVOLUTION = "ConvolutionBackward0"
_FORGETFUL = (_CONVOLUTION, "NativeBatchNormBackward0", "CudnnBatchNormBackward0", "AddBackward0",
              "AddmmBackward0")  # fmt: skip
_TOLERANCE = 1e-3  # part of the largest value: rounding stays far below it, another function far above


class _Normalised(NamedTuple):
    conv: Any
    norm: Any
    between: Tensor


def lighten(readers: Sequence[TapReader], data: DataSpec, *, compiled: bool) -> list[str]:
    """What this module does, to the networks of a training; to be called once criteria have been set up for them.

    Networks with modules of the user's own are left as they are.

    Args:
        readers: Of the student, then of the frozen teachers, with all taps that are read.
        data: Says the shape of their inputs.
        compiled: Whether the student is; the compiler does the same to it.

    Returns:
        Paths of the student's ReLUs that work in place.
    """
    samples = torch.rand(2, *data.input_shape, generator=torch.Generator().manual_seed(0))
    student, *teachers = readers
    for reader in teachers:
        network = reader.network
        assert isinstance(network, Network)
        if is_library_code(network):
            network.folded = optimize_for_inference(reader, samples.to(network.mean.device))
    return [] if compiled or not is_library_code(student.network) else relus_in_place(student, samples)


def is_library_code(network: nn.Module) -> bool:
    """Whether all of its modules are kdbench's or a known library's, which read their activations in every pass alike.

    Of users' own code no trial can promise that: a branch may be taken later, on other images or another draw.
    """
    return all(type(module).__module__.partition(".")[0] in ROOTS for module in network.modules())


def relus_in_place(reader: TapReader, samples: Tensor) -> list[str]:
    """Lets ReLUs of a network in training overwrite what they get, where nothing else reads it.

    The graph of a trial says where; another shows whether a bit of logits, taps, gradients or buffers changes, in train
    mode or in eval mode. Both run on copies. A network that cannot be tried so is left as it is.

    Args:
        reader: Of the network, with all taps that are read while it trains.
        samples: Two or more of its inputs, `(B, ...)` float32.

    Returns:
        Paths of the ReLUs that work in place now.
    """
    if not any(type(module) is nn.ReLU and not module.inplace for module in reader.network.modules()):
        return []
    try:
        with torch.random.fork_rng(devices=[]):
            twin = copy.deepcopy(reader.network).train()
            relus = _Trial(TapReader(twin, reader.names), samples).relus
            paths = [path for path, module in twin.named_modules() if module in relus]
            if not paths:
                return []
            before, after = copy.deepcopy(reader.network), copy.deepcopy(reader.network)
            set_in_place(after, paths, True)
            same = all(map(torch.equal, *(_bits(network, reader.names, samples) for network in (before, after))))
    except Exception:  # noqa: BLE001 (one that recomputes activations, or takes larger batches only: it may train all the same)
        return []
    if not same:
        return []
    set_in_place(reader.network, paths, True)
    return paths


def set_in_place(network: nn.Module, paths: Sequence[str], in_place: bool) -> None:
    """Whether the ReLUs at ``paths`` overwrite what they get."""
    for path in paths:
        relu = network.get_submodule(path)
        assert isinstance(relu, nn.ReLU)
        relu.inplace = in_place


def _bits(network: nn.Module, names: Sequence[str], samples: Tensor) -> list[Tensor]:
    """All that a step in train mode and one in eval mode give and change; the draws are the same for every network."""
    torch.default_generator.manual_seed(0)
    reader = TapReader(network, names)
    found = []
    for training in (True, False):
        network.train(training)
        inputs = samples.clone().requires_grad_()
        output = reader(inputs)
        output.logits.square().sum().backward()
        found += [output.logits, *output.features.values(), inputs.grad]
    gradients = [parameter.grad for parameter in network.parameters()]
    return [each for each in (*found, *gradients, *network.buffers()) if each is not None]


def optimize_for_inference(reader: TapReader, samples: Tensor) -> tuple[str, ...]:
    r"""Makes BatchNorms of a teacher parts of the convolutions before them, and its ReLUs work in place.

    .. math:: \gamma \, \frac{(W * x + b) - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta = (s W) * x + s (b - \mu) + \beta,
        \qquad s = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}

    Equal up to rounding, and only where nothing else reads what a convolution gives, as far as the graph of a trial
    shows. Logits and taps are compared with what they were: where they differ, all is put back. A BatchNorm stays, with
    all that can be read from it, and returns what it gets.

    Args:
        reader: Of a frozen network in eval mode that nobody will train, with all taps that are read.
        samples: Some of its inputs, `(B, ...)` float32.

    Returns:
        Paths of the BatchNorms that became parts of convolutions.
    """
    if not any(type(module) in (*_NORMS, nn.ReLU) for module in reader.network.modules()):
        return ()
    trial = _Trial(reader, samples)
    weights = [(conv.weight, conv.bias) for conv, *_ in trial.norms]
    for conv, norm, _ in trial.norms:
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        norm.forward = _as_it_is
    for relu in trial.relus:
        relu.inplace = True
    if _confirmed(trial.output, reader, samples):
        folded = {norm for _, norm, _ in trial.norms}
        return tuple(path for path, module in reader.network.named_modules() if module in folded)
    for relu in trial.relus:
        relu.inplace = False
    for (conv, norm, _), (weight, bias) in zip(trial.norms, weights, strict=True):
        conv.weight, conv.bias = weight, bias
        del norm.forward
    return ()


def _as_it_is(x: Tensor) -> Tensor:
    return x


class _Trial:
    """One forward pass with gradient, and what its graph shows.

    Attributes:
        output: What the network gave.
        norms: BatchNorms that are the only readers of what a convolution gives; each of the two runs once.
        relus: Those that are the only readers of what they get, and whose overwriting no gradient minds.
    """

    def __init__(self, reader: TapReader, samples: Tensor) -> None:
        self._ran: Counter[nn.Module] = Counter()
        self._given: dict[int, tuple[nn.Module, Tensor]] = {}  # by id(), which is unique while the tensor is alive
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
                      if self._ran[each.conv] == self._ran[each.norm] == 1 and self._alone(each.between, _CONVOLUTION)
                      and _plain(each.conv, each.norm)]  # fmt: skip
        self.relus = [relu for relu, got in self._rectified.items()
                      if not relu.inplace and all(self._alone(each, *_FORGETFUL) for each in got)]  # fmt: skip

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

    def _alone(self, between: Tensor, *makers: str) -> bool:
        """Whether one operation took what one of ``makers`` gave, and nobody is shown it."""
        made = between.grad_fn
        return (made is not None and made.name() in makers and self._users[made] == 1
                and not any(between is each for each in self._shown))  # fmt: skip


def _plain(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether the weights are parameters, which no hook computes for each forward, and the norm is not folded yet."""
    return conv._parameters.keys() >= {"weight", "bias"} <= norm._parameters.keys() and "forward" not in vars(norm)


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


def _confirmed(before: ModelOutput, reader: TapReader, samples: Tensor) -> bool:
    """Whether the network still gives what it gave, up to rounding."""
    with torch.no_grad():
        after = reader(samples)
    pairs = [(before.logits, after.logits), *((one, after.features[name]) for name, one in before.features.items())]
    return all(bool((one - two).abs().max() <= _TOLERANCE * one.abs().max()) for one, two in pairs)
