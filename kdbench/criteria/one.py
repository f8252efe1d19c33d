"""On-the-fly native ensemble: Lan et al. 2018."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import cross_entropy

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria._functional import kd_loss
from kdbench.criteria._options import check_number
from kdbench.criteria.base import Criterion, Teachers


class _UpTo(fx.Tracer):
    """Takes the module at one path for a whole, whatever it is made of."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name == self.path or super().is_leaf_module(m, module_qualified_name)


def rest_of(body: nn.Module, path: str) -> fx.GraphModule:
    """What ``body`` computes from the output of its module at ``path``, on its own modules.

    Raises:
        ConfigError: It cannot be cut there.
    """
    tracer = _UpTo(path)
    try:
        graph = tracer.trace(body)
    except Exception as error:
        raise ConfigError(f"ONE cannot cut {type(body).__name__} behind {path}: it computes by its inputs") from error
    cuts = [node for node in graph.nodes if node.op == "call_module" and node.target == path]
    if len(cuts) != 1:
        raise ConfigError(f"ONE cannot cut {type(body).__name__} behind {path}: it is not used exactly once")
    with graph.inserting_before(cuts[0]):
        cuts[0].replace_all_uses_with(graph.placeholder("shared"))
    rest = fx.GraphModule(tracer.root, graph)
    rest.graph.eliminate_dead_code()
    for node in [node for node in rest.graph.nodes if node.op == "placeholder" and node.name != "shared"]:
        if node.users:
            raise ConfigError(f"ONE cannot cut {type(body).__name__} behind {path}: what follows needs more than that")
        rest.graph.erase_node(node)
    rest.delete_all_unused_submodules()
    rest.recompile()
    return rest


@torch.no_grad()
def _drawn_again(module: fx.GraphModule) -> fx.GraphModule:
    """The same layers with weights of their own, of the deviation that each layer's have."""
    module = copy.deepcopy(module)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0.0, float(parameter.std()))
    return module


class ONE(Criterion):
    r"""Branches of one network are each other's teacher: a gate makes their ensemble, which they learn from.

    .. math:: z_e = \sum_b g_b z_b, \qquad \mathrm{one\_task} = \mathrm{CE}(z_e) + \sum_{b \ge 2} \mathrm{CE}(z_b),
        \qquad \mathrm{one\_kd} = \sum_b \tau^2 \, \mathrm{KL}_b(\sigma(z_e / \tau) \,\|\, \sigma(z_b / \tau))

    Branch 1 is the student, whose cross-entropy is the term ``task``; the others are copies of all that follows its
    next to last stage, with weights of their own. The gate :math:`g` is the softmax of a linear layer with BatchNorm
    and ReLU on the pooled map that they share. In ``one_kd`` the ensemble is a constant. The branches are part of the
    checkpoint and of the extra parameters, and are not deployed; nor is the ensemble measured.

    Args:
        branches: How many, the student among them, at least 2.
        temperature: :math:`\tau > 0`, dimensionless.

    Raises:
        ConfigError: An option is out of its range.

    Source: Lan et al. 2018, arXiv:1806.04606; Lan1991Xu/ONE_NeurIPS2018, whose CIFAR ResNets branch there too.
    Differs from: the released code, which adds 1e-7 to the ensemble's probabilities, and draws the branches' weights by
        each layer's own rule, where ours are normal with the deviation of the student's; its ResNets have bottleneck
        blocks from depth 44 on. Its ramp, a weight in the YAML, moves with every step here and once per epoch there.
    """

    terms: ClassVar[tuple[str, ...]] = ("one_task", "one_kd")
    teachers: ClassVar[Teachers] = Teachers.NONE

    def __init__(self, *, branches: int = 3, temperature: float = 3.0) -> None:
        super().__init__()
        check_number("one.branches", branches, above=1)
        check_number("one.temperature", temperature, above=0)
        self.branches = branches
        self.temperature = temperature

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Makes the other branches and the gate.

        Raises:
            ConfigError: The student has not two stages, or cannot be cut behind the next to last.
        """
        super().setup(student, teachers, data)
        if len(student.shapes) < 2:
            raise ConfigError(f"ONE branches behind the next to last stage; {student.name} has not two")
        self.shared, shape = list(student.shapes.items())[-2]
        network = student.network
        assert network is not None
        tap, channels = network.taps[self.shared], shape[0]  # type: ignore[index]
        rest = rest_of(network.body, tap.path.removeprefix("body."))  # type: ignore[arg-type,union-attr]
        self.others = nn.ModuleList(_drawn_again(rest) for _ in range(self.branches - 1)).requires_grad_(True).train()
        self.gate = nn.Sequential(nn.Linear(channels, self.branches), nn.BatchNorm1d(self.branches), nn.ReLU())

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The terms ``one_task`` and ``one_kd``, scalars in nats; there are no ``teachers``."""
        shared = student.features[self.shared]
        logits = [student.logits, *(branch(shared) for branch in self.others)]
        gates = self.gate(shared.flatten(2).mean(dim=2)).softmax(dim=1)
        ensemble = (gates[:, :, None] * torch.stack(logits, dim=1)).sum(dim=1)
        labels = [
            batch.over_labels(lambda target, each=each: cross_entropy(each.float(), target, reduction="none")).mean()
            for each in (ensemble, *logits[1:])
        ]
        follow = [kd_loss(each, ensemble, temperature=self.temperature) for each in logits]
        return {"one_task": torch.stack(labels).sum(), "one_kd": torch.stack(follow).sum()}
