"""How closely a student follows its teachers, whatever the labels say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec
from kdbench.metrics.base import Evaluation, collect


def mean_log_probabilities(logits: Sequence[Tensor]) -> Tensor:
    r"""Logarithm of the mean prediction, :math:`\log \tfrac1K \sum_k \mathrm{softmax}(z^k)`.

    Args:
        logits: One tensor `(B, C)` for each of K networks.

    Returns:
        `(B, C)`, nats.
    """
    return torch.stack([member.log_softmax(dim=-1) for member in logits]).logsumexp(dim=0) - math.log(len(logits))


def agreement(student: Tensor, teacher: Tensor) -> Tensor:
    """Whether both prefer the same class.

    Args:
        student: Logits or log-probabilities, `(B, C)`.
        teacher: Same shape.

    Returns:
        `(B,)` float32, 1 or 0.
    """
    return (student.argmax(dim=-1) == teacher.argmax(dim=-1)).float()


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    r""":math:`\mathrm{KL}(p \,\|\, q)` of each sample.

    Args:
        log_p: Log-probabilities, `(B, C)`.
        log_q: Same shape.

    Returns:
        `(B,)`, nats, not negative.
    """
    return nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(dim=-1)


class Fidelity(Evaluation):
    """Agreement with the teachers' averaged prediction, and both divergences from it at temperature 1.

    Source: Stanton et al. 2021, arXiv:2106.05945, Sec. 3.
    """

    def __call__(
        self, network: nn.Module, loader: Iterable[Batch], teachers: Sequence[nn.Module], data: DataSpec
    ) -> dict[str, Any]:
        """``agreement`` in percent; ``kl`` (teacher to student) and ``reverse_kl`` in nats, means over samples.

        Raises:
            ConfigError: The network has no teacher.
        """
        if not teachers:
            raise ConfigError("eval=[fidelity]: this network was trained without a teacher; leave fidelity out")
        (student, *others), _ = collect([network, *teachers], loader)
        log_q, log_p = student.log_softmax(dim=-1), mean_log_probabilities(others)
        return {
            "agreement": 100 * agreement(log_q, log_p).mean().item(),
            "kl": kl_divergence(log_p, log_q).mean().item(),
            "reverse_kl": kl_divergence(log_q, log_p).mean().item(),
        }
