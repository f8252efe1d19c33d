"""What a network costs: parameters, multiply-accumulates, time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec
from kdbench.metrics.base import Evaluation, device_of, evaluating

_WARM_UP = 2  # the first calls allocate memory and choose kernels


def count_parameters(network: nn.Module) -> int:
    """Number of parameters, frozen ones included, shared ones once; buffers are not parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_bytes(network: nn.Module) -> int:
    """Size of the network's parameters and buffers in memory, shared ones once."""
    tensors = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def count_macs(network: nn.Module, input_shape: Sequence[int]) -> int:
    """Multiply-accumulates of one sample: convolutions, matrix products, attention.

    Normalisation, activations, pooling and biases are not counted, as is the custom in the field.

    Args:
        network: Any module that takes a batch of such inputs.
        input_shape: Shape of one sample, without the batch dimension.
    """
    inputs = torch.zeros(1, *input_shape, device=device_of(network))
    with evaluating(network), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(inputs)
    return counter.get_total_flops() // 2


def _seconds(network: nn.Module, inputs: torch.Tensor) -> float:
    start = time.perf_counter()
    network(inputs)
    if torch.accelerator.is_available():  # its kernels run on after the call has returned
        torch.accelerator.synchronize()
    return time.perf_counter() - start


@torch.inference_mode()
def latency(
    network: nn.Module, input_shape: Sequence[int], *, batch_sizes: Sequence[int] = (1,), repeats: int = 10
) -> dict[int, float]:
    """Median time of a forward pass in milliseconds, by batch size; on the network's device, with the threads set.

    Args:
        network: Any module that takes a batch of such inputs.
        input_shape: Shape of one sample, without the batch dimension.
        batch_sizes: Samples per pass.
        repeats: Timed passes for each, after two that are not counted.
    """
    results = {}
    with evaluating(network):
        for size in batch_sizes:
            inputs = torch.zeros(size, *input_shape, device=device_of(network))
            seconds = [_seconds(network, inputs) for _ in range(_WARM_UP + repeats)][_WARM_UP:]
            results[size] = 1000 * statistics.median(seconds)
    return results


class Latency(Evaluation):
    """Size and speed of the network on the device it is on.

    Args:
        batch_sizes: Samples per pass.
        repeats: Timed passes for each.

    Raises:
        ConfigError: A number is below one.
    """

    headline = "bytes"

    def __init__(self, *, batch_sizes: Sequence[int] = (1, 64), repeats: int = 10) -> None:
        if min([repeats, *batch_sizes]) < 1:
            raise ConfigError(
                f"eval.latency: repeats={repeats}, batch_sizes={list(batch_sizes)}: all must be at least 1"
            )
        self.batch_sizes = tuple(batch_sizes)
        self.repeats = repeats

    def __call__(
        self,
        network: nn.Module,
        loader: Iterable[Batch],
        teachers: Sequence[nn.Module],
        data: DataSpec,
        *others: Iterable[Batch],
    ) -> dict[str, Any]:
        """``parameters``, ``bytes``, ``macs`` of one sample, ``latency_ms`` by batch size, ``device``, ``threads``."""
        times = latency(network, data.input_shape, batch_sizes=self.batch_sizes, repeats=self.repeats)
        return {
            "parameters": count_parameters(network),
            "bytes": count_bytes(network),
            "macs": count_macs(network, data.input_shape),
            "latency_ms": {str(size): milliseconds for size, milliseconds in times.items()},
            "device": str(device_of(network)),
            "threads": torch.get_num_threads(),
        }
