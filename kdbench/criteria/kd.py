"""Soft targets: Hinton et al. 2015."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria._functional import DIVERGENCES, REDUCTIONS, TEMPERATURE_ON, ensemble_logits, kd_loss
from kdbench.criteria._options import check_choice, check_number
from kdbench.criteria.base import Criterion, Teachers

_SEVERAL = ("average", "sum")


class KD(Criterion):
    r"""The student's softened prediction follows that of its teachers.

    .. math:: \tau^2 \, \tfrac1B \sum_i \mathrm{KL}\bigl(p^T_i(\tau) \,\|\, p^S_i(\tau)\bigr)

    Args:
        temperature: :math:`\tau > 0`, dimensionless.
        reduction: ``batchmean``, or ``elementwise_mean``, which is C times smaller; a published weight holds only
            with the reduction it was tuned for.
        temperature_on: ``both`` (Hinton), or ``teacher`` with the student at 1 (Zhang & Sabuncu, arXiv:2006.05065).
        scale: Whether to multiply by :math:`\tau^2`; Zhang & Sabuncu do not.
        divergence: ``kl``, ``reverse_kl`` or ``soft_ce`` (``kl`` plus the teacher's entropy).
        several: What several teachers mean: ``average``, one ensemble whose softened probabilities are the mean of
            theirs; ``sum``, one term per teacher, added (Son et al. 2021, arXiv:2009.08825).

    Raises:
        ConfigError: An option has a value that does not exist, or the temperature is not positive.

    Source: Hinton et al. 2015, arXiv:1503.02531, Sec. 2.
    Differs from: TAKD's released code, which uses ``elementwise_mean``; Zhang & Sabuncu's, which adds 1e-8 inside the
        logarithm; Son et al., who also drop teachers at random while training.
    """

    terms: ClassVar[tuple[str, ...]] = ("kd",)
    teachers: ClassVar[Teachers] = Teachers.ANY

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        reduction: str = "batchmean",
        temperature_on: str = "both",
        scale: bool = True,
        divergence: str = "kl",
        several: str = "average",
    ) -> None:
        super().__init__()
        check_number("kd.temperature", temperature, above=0)
        check_choice("kd.reduction", reduction, REDUCTIONS)
        check_choice("kd.temperature_on", temperature_on, TEMPERATURE_ON)
        check_choice("kd.divergence", divergence, DIVERGENCES)
        check_choice("kd.several", several, _SEVERAL)
        self.temperature = temperature
        self.reduction = reduction
        self.temperature_on = temperature_on
        self.scale = scale
        self.divergence = divergence
        self.several = several

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``kd``, a scalar in nats."""
        guides = [teacher.logits for teacher in teachers]
        if self.several == "average":
            guides = [ensemble_logits(guides, temperature=self.temperature)]
        losses = [
            kd_loss(
                student.logits,
                guide,
                temperature=self.temperature,
                reduction=self.reduction,
                temperature_on=self.temperature_on,
                scale=self.scale,
                divergence=self.divergence,
            )
            for guide in guides
        ]
        return {"kd": torch.stack(losses).sum()}
