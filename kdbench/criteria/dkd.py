"""Decoupled knowledge distillation: Zhao et al. 2022."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria._functional import kl_divergence, log_probabilities
from kdbench.criteria._options import check_number
from kdbench.criteria.base import Criterion


def decouple(logits: Tensor, target: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    r"""Splits a prediction into whether the sample is of its class, and which other class it might be.

    .. math:: \bigl(\log p_y, \log(1 - p_y)\bigr), \qquad \log \hat p_c = \log p_c - \log(1 - p_y), \quad c \ne y

    :math:`\log(1 - p_y)` is the log-sum-exp of the other classes: from :math:`p_y` itself it would be infinite as soon
    as :math:`p_y` rounds to 1.

    Args:
        logits: Unnormalised scores, `(B, C)`.
        target: Class :math:`y` of each sample, `(B,)` int64.
        temperature: :math:`\tau > 0`, dimensionless.

    Returns:
        Log-probabilities of the two, `(B, 2)` and `(B, C - 1)`, nats, at least float32.
    """
    log_p = log_probabilities(logits, temperature)
    columns = torch.arange(log_p.shape[-1] - 1, device=log_p.device)
    others = log_p.gather(-1, columns + (columns >= target.unsqueeze(-1)))  # skips the target's column
    of_others = others.logsumexp(dim=-1, keepdim=True)
    of_target = log_p.gather(-1, target.unsqueeze(-1))
    return torch.cat([of_target, of_others], dim=-1), others - of_others


class DKD(Criterion):
    r"""Soft targets in two parts that are weighted apart: the true class against the rest, and the rest among itself.

    .. math:: \mathrm{TCKD} = \tau^2 \, \tfrac1B \sum_i \mathrm{KL}(b^T_i \,\|\, b^S_i), \qquad
        \mathrm{NCKD} = \tau^2 \, \tfrac1B \sum_i \mathrm{KL}(\hat p^T_i \,\|\, \hat p^S_i)

    with :math:`b = (p_y, 1 - p_y)` and :math:`\hat p` the prediction renormalised over the classes other than
    :math:`y`. Plain KD is :math:`\mathrm{TCKD}_i + (1 - p^T_{i,y}) \, \mathrm{NCKD}_i` for each sample: it mutes what
    the teacher knows of other classes exactly where it is sure.

    Args:
        temperature: :math:`\tau > 0`, dimensionless.

    Raises:
        ConfigError: The temperature is not positive.

    Source: Zhao et al. 2022, arXiv:2203.08679, Sec. 3.
    Differs from: the released code (megvii-research/mdistiller), which takes logarithms of probabilities, infinite once
        one of them underflows, and raises the warm-up weight once per epoch, from 1/20 on; here it grows with every
        step, from 0.
    """

    terms: ClassVar[tuple[str, ...]] = ("tckd", "nckd")
    one_label: ClassVar[bool] = True

    def __init__(self, *, temperature: float = 4.0) -> None:
        super().__init__()
        check_number("dkd.temperature", temperature, above=0)
        self.temperature = temperature

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The terms ``tckd`` and ``nckd``, scalars in nats, both zero when student and teacher agree."""
        of_student = decouple(student.logits, batch.target, temperature=self.temperature)
        of_teacher = decouple(teachers[0].logits.detach(), batch.target, temperature=self.temperature)
        losses = [
            self.temperature**2 * kl_divergence(guide, own).mean()
            for guide, own in zip(of_teacher, of_student, strict=True)
        ]
        return dict(zip(self.terms, losses, strict=True))
