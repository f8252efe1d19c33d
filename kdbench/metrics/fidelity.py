"""How closely a student follows its teachers, whatever the labels say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.core.taps import TapReader
from kdbench.core.types import Batch, DataSpec
from kdbench.metrics.base import Evaluation, device_of, evaluating, nothing_to_evaluate
from kdbench.metrics.cka import LinearCKA


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


def shared_taps(student: nn.Module, teacher: nn.Module) -> list[str]:
    """Canonical taps that both networks declare, without the logits, in the student's order."""
    theirs = getattr(teacher, "taps", {})
    return [name for name in getattr(student, "taps", {}) if name in theirs and name != "logits"]


class Fidelity(Evaluation):
    """Agreement with the teachers' averaged prediction, both divergences from it at temperature 1, feature similarity.

    The last is :class:`kdbench.metrics.cka.LinearCKA` with each teacher, at the taps that both networks have.

    Source: Stanton et al. 2021, arXiv:2106.05945, Sec. 3.
    """

    headline = "kl"

    def check(self, network: nn.Module, teachers: Sequence[nn.Module], data: DataSpec) -> None:
        """Refuses a network without a teacher."""
        if not teachers:
            raise ConfigError("eval=[fidelity]: this network was trained without a teacher; leave fidelity out")

    @torch.no_grad()
    def __call__(
        self,
        network: nn.Module,
        loader: Iterable[Batch],
        teachers: Sequence[nn.Module],
        data: DataSpec,
        *others: Iterable[Batch],
    ) -> dict[str, Any]:
        """Means over samples.

        Returns:
            ``agreement`` in percent; ``kl`` (teacher to student) and ``reverse_kl`` in nats;
            ``cka_minibatch_unbiased``: a row per ``teacher``, counted from 0, and ``tap``, with ``cka``.

        Raises:
            DataError: The loader yields nothing.
        """
        taps = [shared_taps(network, teacher) for teacher in teachers]
        similarity = {(place, tap): LinearCKA() for place, names in enumerate(taps) for tap in names}
        readers = [TapReader(network, [tap for names in taps for tap in names]), *map(TapReader, teachers, taps)]
        sums, seen = torch.zeros(3, dtype=torch.float64), 0
        try:
            with evaluating(network, *teachers):
                for batch in loader:
                    student, *outputs = [reader(batch.inputs.to(device_of(network))) for reader in readers]
                    log_q = student.logits.float().log_softmax(dim=-1)
                    log_p = mean_log_probabilities([output.logits.float() for output in outputs])
                    values = (agreement(log_q, log_p), kl_divergence(log_p, log_q), kl_divergence(log_q, log_p))
                    sums += torch.stack([value.double().sum() for value in values]).cpu()
                    seen += len(batch.target)
                    for (place, tap), measure in similarity.items():
                        measure.update(student.features[tap], outputs[place].features[tap])
        finally:
            for reader in readers:
                reader.close()
        if not seen:
            raise nothing_to_evaluate()
        agree, kl, reverse_kl = (sums / seen).tolist()
        rows = [{"teacher": place, "tap": tap, "cka": value.compute()} for (place, tap), value in similarity.items()]
        return {"agreement": 100 * agree, "kl": kl, "reverse_kl": reverse_kl, "cka_minibatch_unbiased": rows}
