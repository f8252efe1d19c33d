"""Losses over logits that several criteria share: in log space, and in float32 also under autocast."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Softened log-probabilities :math:`\log p(\tau) = \mathrm{log\,softmax}(z / \tau)`.

    Args:
        logits: Unnormalised scores :math:`z`, `(..., C)`, of any floating type.
        temperature: :math:`\tau > 0`, dimensionless.

    Returns:
        Same shape, nats, at most 0; at least float32, because half precision cannot hold the tails.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    return nn.functional.log_softmax(logits.to(wide) / temperature, dim=-1)


def ensemble_logits(logits: Sequence[Tensor], *, temperature: float) -> Tensor:
    r"""Logits of the ensemble whose softened probabilities are the mean of its members'.

    .. math:: z = \tau \log \tfrac1K \sum_k p^k(\tau), \quad\text{so that } p(\tau) = \tfrac1K \sum_k p^k(\tau)

    Args:
        logits: One tensor `(..., C)` for each of the K members.
        temperature: :math:`\tau > 0` at which the probabilities are averaged.

    Returns:
        `(..., C)`, at least float32.

    Source: Hinton et al. 2015, arXiv:1503.02531, Sec. 1 (arithmetic mean of the predictive distributions).
    """
    members = [log_probabilities(member, temperature) for member in logits]
    if len(members) == 1:  # the same numbers as below, without the sum
        return temperature * members[0]
    return temperature * (torch.stack(members).logsumexp(dim=0) - math.log(len(members)))


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Divergence :math:`\mathrm{KL}(p \,\|\, q) = \sum_c p_c (\log p_c - \log q_c)` of each sample.

    Args:
        log_p: Log-probabilities, `(..., C)`.
        log_q: Same shape.

    Returns:
        `(...)`, nats, not negative. Differentiable in both.
    """
    return nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(dim=-1)


def soft_cross_entropy(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Cross-entropy :math:`-\sum_c p_c \log q_c` of each sample: the divergence plus the entropy of :math:`p`.

    Args:
        log_p: Log-probabilities of the target, `(..., C)`.
        log_q: Same shape.

    Returns:
        `(...)`, nats, not negative.
    """
    return -(log_p.exp() * log_q).sum(dim=-1)


# Each takes the log-probabilities of the teacher, then of the student.
DIVERGENCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": kl_divergence,
    "reverse_kl": lambda teacher, student: kl_divergence(student, teacher),
    "soft_ce": soft_cross_entropy,
}
REDUCTIONS = ("batchmean", "elementwise_mean")
TEMPERATURE_ON = ("both", "teacher")


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float,
    reduction: str = "batchmean",
    temperature_on: str = "both",
    scale: bool = True,
    divergence: str = "kl",
) -> Tensor:
    r"""Divergence of the softened student from the softened teacher.

    .. math:: \tau^2 \, \tfrac1B \sum_i \mathrm{KL}\bigl(p^T_i(\tau) \,\|\, p^S_i(\tau)\bigr)

    The factor :math:`\tau^2` keeps the gradient's size roughly independent of the temperature,
    so a weight tuned at one temperature means nearly the same at another.

    Args:
        student_logits: Unnormalised scores, `(B, C)`.
        teacher_logits: Same shape; treated as constant.
        temperature: :math:`\tau > 0`, dimensionless; 1 leaves the scores as they are.
        reduction: ``batchmean`` sums over classes and averages over the batch; ``elementwise_mean`` averages over
            both, which is C times smaller.
        temperature_on: ``both``, or ``teacher`` alone with the student at 1.
        scale: Whether to multiply by :math:`\tau^2`.
        divergence: ``kl`` as above; ``reverse_kl`` with the two exchanged; ``soft_ce``, which adds the teacher's
            entropy: another value, the same gradient as ``kl``.

    Returns:
        Scalar in nats, at least float32. For the two KL with ``temperature_on="both"``, zero when both agree.

    Source: Hinton et al. 2015, arXiv:1503.02531, Sec. 2.
    Differs from: TAKD's released code, which also averages over classes (``elementwise_mean``).
    """
    teacher = log_probabilities(teacher_logits.detach(), temperature)
    student = log_probabilities(student_logits, temperature if temperature_on == "both" else 1.0)
    loss = DIVERGENCES[divergence](teacher, student).mean()
    if reduction == "elementwise_mean":
        loss = loss / student.shape[-1]
    return loss * temperature**2 if scale else loss
