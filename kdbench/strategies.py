"""What joins the ranks of a training: Lightning's strategies, for processes that are there already."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, ParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from kdbench.core.errors import nearest
from kdbench.core.ranks import rank, world
from kdbench.core.recipe import Recipe
from kdbench.metrics.base import evaluating

AUTO = "auto"


class _Started(LightningEnvironment):
    """Ranks that :mod:`kdbench.launch` has started, of one machine."""

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def local_rank(self) -> int:
        return rank()

    def node_rank(self) -> int:
        return 0


def _ddp(unused: bool) -> ParallelStrategy:
    # Running statistics stay a rank's own: those of rank 0 are kept, as if they were sent to the others at every step.
    return DDPStrategy(broadcast_buffers=False, find_unused_parameters=unused)


def _fsdp(unused: bool) -> ParallelStrategy:
    return FSDPStrategy(state_dict_type="full")  # what rank 0 writes can be read by any number of ranks


STRATEGIES: Mapping[str, Callable[[bool], ParallelStrategy]] = {AUTO: _ddp, "ddp": _ddp, "fsdp": _fsdp}


def leaves_out(network: nn.Module, inputs: Tensor) -> bool:
    """Whether a forward pass does not use every parameter that is trained; DDP then looks for them at every step."""
    with evaluating(network), torch.enable_grad():
        network(inputs).sum().backward()
    unused = any(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    network.zero_grad()
    return unused


def placement(device: torch.device, strategy: str, *, unused: bool) -> dict[str, Any]:
    """Arguments for Lightning's Trainer: where this rank computes, and how it meets the others.

    Args:
        device: What this rank computes on.
        strategy: A key of :data:`STRATEGIES`, where there are several ranks.
        unused: Whether a step may leave trained parameters without a gradient.
    """
    first = (device.index or 0) - rank()
    devices = world() if device.type == "cpu" else list(range(first, first + world()))
    where = {"accelerator": "gpu" if device.type == "cuda" else "cpu", "devices": devices}
    if world() == 1:
        return where
    made = STRATEGIES[strategy](unused)
    made.cluster_environment = _Started()
    return {**where, "strategy": made}


def is_sharded(strategy: Strategy) -> bool:
    """Whether each rank keeps a part of the parameters only."""
    return isinstance(strategy, FSDPStrategy)


def whole(strategy: Strategy) -> AbstractContextManager[object]:
    """Within it every rank holds all parameters; to be entered by all of them."""
    if not is_sharded(strategy):
        return nullcontext()
    assert strategy.model is not None
    return FullyShardedDataParallel.summon_full_params(strategy.model, writeback=False)


def device_problems(devices: int, workers: int, cores: int) -> list[str]:
    """What is wrong with the number of devices, one line each.

    Args:
        devices: ``trainer.devices``.
        workers: ``sweep.workers`` of a sweep, otherwise 1.
        cores: CPU cores.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return ["kdbench starts the processes of a training itself, on one machine; type kdbench without torchrun"]
    wanted, gpus = devices * workers, torch.cuda.device_count()
    there = gpus or cores
    if devices > 1 and wanted > there and (gpus or workers > 1):
        return [f"trainer.devices={devices}{f' x sweep.workers={workers}' if workers > 1 else ''}: {wanted} "
                f"{'GPUs' if gpus else 'CPU cores'} are needed, there are {there}"]  # fmt: skip
    return []


def strategy_problems(strategy: str, devices: int, device: torch.device, recipe: Recipe) -> list[str]:
    """What is wrong with training on several devices, one line each.

    Args:
        strategy: ``trainer.strategy``.
        devices: ``trainer.devices``.
        device: Where the first rank computes.
        recipe: What is to be trained.
    """
    problems, budget = [], recipe.budget
    if strategy not in STRATEGIES:
        problems.append(f"trainer.strategy={strategy}: unknown{nearest(strategy, STRATEGIES)}")
    if budget["batch_size"] < 2 * devices and devices > 1:
        problems.append(f"trainer.batch_size={budget['batch_size']} is the batch of all devices together: at least "
                        f"{2 * devices} are needed for trainer.devices={devices}")  # fmt: skip
    if devices > 1 and len(recipe.phase_epochs) > 1:  # DDP and FSDP choose once which parameters they look after
        problems.append(f"trainer.devices={devices}: {recipe.name}'s method has phases, which train other parts of it "
                        "in turn: only on one device; use trainer.devices=1")  # fmt: skip
    if devices > 1 and budget["compile"] is not None and "replicas" not in budget:
        problems.append(f"trainer.compile={budget['compile']}: cannot see BatchNorm's statistics over several devices; "
                        "use trainer.compile=null or trainer.sync_batchnorm=false")  # fmt: skip
    if strategy == "fsdp":
        if device.type == "cpu":
            problems.append("trainer.strategy=fsdp: shards over GPUs only, and none is used; use trainer=ddp")
        problems += [f"trainer.{key}={budget[key]}: not with trainer.strategy=fsdp, where no rank has all weights; "
                     "use trainer=ddp" for key in ("ema", "clip") if budget[key] is not None]  # fmt: skip
    return problems
