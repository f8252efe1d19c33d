"""Distillation without a teacher: Yuan et al. 2020."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria._functional import REDUCTIONS, TEMPERATURE_ON, kd_loss
from kdbench.criteria._options import check_choice, check_number
from kdbench.criteria.base import Criterion, Teachers


def virtual_teacher(target: Tensor, classes: int, *, correct: float) -> Tensor:
    r"""Probability :math:`a` of the true class and :math:`(1 - a) / (C - 1)` of each other.

    Args:
        target: Class of each sample, `(B,)` int64.
        classes: C, at least 2.
        correct: :math:`a` in (0, 1).

    Returns:
        `(B, C)` float32; rows sum to 1.
    """
    wrong = torch.full((len(target), classes), (1 - correct) / (classes - 1), device=target.device)
    return wrong.scatter(1, target.unsqueeze(1), correct)


class TfKD(Criterion):
    r"""The student's prediction follows a teacher made by hand, which is always right.

    .. math:: \tfrac1B \sum_i \mathrm{KL}\bigl(\mathrm{softmax}(p^d_i / \tau) \,\|\, p^S_i(\tau)\bigr)

    with :math:`p^d` from :func:`virtual_teacher`, whose probabilities take the place of logits. A reconstruction:
    written from memory of the paper's equation and of its code; the weights are ours. The paper's other form, Tf-KD by
    self-training, is ``method=kd`` with the teacher of the student's architecture.

    Args:
        correct: Probability :math:`a` of the true class in (0, 1).
        temperature: :math:`\tau > 0`, dimensionless.
        temperature_on: ``both``; ``teacher``, as the released code, with the student at 1.
        reduction: ``batchmean``; ``elementwise_mean``, as the released code, C times smaller.

    Raises:
        ConfigError: An option has a value that does not exist or is out of range.

    Source: Yuan et al. 2020, arXiv:1909.11723, Sec. 5, Tf-KD by regularization.
    Differs from: the released code, unless ``temperature_on=teacher`` and ``reduction=elementwise_mean``.
    """

    terms: ClassVar[tuple[str, ...]] = ("tf_kd",)
    one_label: ClassVar[bool] = True
    teachers: ClassVar[Teachers] = Teachers.NONE

    def __init__(
        self,
        *,
        correct: float = 0.99,
        temperature: float = 20.0,
        temperature_on: str = "both",
        reduction: str = "batchmean",
    ) -> None:
        super().__init__()
        check_number("tf_kd.correct", correct, above=0, below=1)
        check_number("tf_kd.temperature", temperature, above=0)
        check_choice("tf_kd.temperature_on", temperature_on, TEMPERATURE_ON)
        check_choice("tf_kd.reduction", reduction, REDUCTIONS)
        self.correct = correct
        self.temperature = temperature
        self.temperature_on = temperature_on
        self.reduction = reduction

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``tf_kd``, a scalar in nats; teachers are not looked at."""
        guide = virtual_teacher(batch.target, student.logits.shape[1], correct=self.correct)
        loss = kd_loss(student.logits, guide, temperature=self.temperature, temperature_on=self.temperature_on,
                       reduction=self.reduction, scale=False)  # fmt: skip
        return {"tf_kd": loss}
