"""Adversarially robust distillation: Goldblum et al. 2020."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from kdbench.core.attacks import pgd
from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria._functional import REDUCTIONS, kd_loss
from kdbench.criteria._options import check_choice, check_number, check_whole
from kdbench.criteria.base import Criterion


def attack_student(student: ModelOutput, batch: Batch, *, epsilon: float, steps: int) -> Tensor:
    """The batch moved to where the student's loss is high, by :func:`kdbench.core.attacks.pgd` in the student's mode.

    Uniform start in the box, steps of twice the radius over their number. Uses the global generator.

    Args:
        student: The network that is attacked.
        batch: Where the attack starts.
        epsilon: Radius in the maximum norm, in 1/255 of the full range of a pixel.
        steps: Number of steps.
    """
    radius = epsilon / 255
    start = radius * (2 * torch.rand_like(batch.inputs) - 1)
    with torch.autocast(batch.inputs.device.type, enabled=False):
        return pgd(lambda inputs: student.ask(inputs).logits, batch.inputs, batch.target,
                   epsilon=radius, step=2 * radius / steps, steps=steps, start=start)  # fmt: skip


class ARD(Criterion):
    r"""Soft targets on attacked inputs.

    .. math:: \tau^2 \, \tfrac1B \sum_i \mathrm{KL}\bigl(p^T(x'_i; \tau) \,\|\, p^S(x'_i; \tau)\bigr)

    with :math:`x'` from :func:`attack_student`. The task loss stays on clean inputs.

    Args:
        temperature: :math:`\tau > 0`, dimensionless.
        reduction: As of KD; ``elementwise_mean`` is the released code's.
        epsilon: Radius of the attack in the maximum norm, in 1/255 of the full range of a pixel.
        steps: Of the attack.
        teacher_sees: ``adversarial`` inputs, as the code released with KDIGA, or ``clean`` ones, as the first ARD.

    Raises:
        ConfigError: An option has a value that does not exist or is out of range.

    Source: Goldblum et al. 2020, arXiv:1905.09747, as in the code released with Shao et al. 2021, arXiv:2110.12072.
    """

    terms: ClassVar[tuple[str, ...]] = ("ard",)
    one_label: ClassVar[bool] = True

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        reduction: str = "elementwise_mean",
        epsilon: float = 8.0,
        steps: int = 10,
        teacher_sees: str = "adversarial",
    ) -> None:
        super().__init__()
        check_number("ard.temperature", temperature, above=0)
        check_choice("ard.reduction", reduction, REDUCTIONS)
        check_number("ard.epsilon", epsilon, above=0, below=256)
        check_whole("ard.steps", steps, least=1)
        check_choice("ard.teacher_sees", teacher_sees, ("adversarial", "clean"))
        self.temperature = temperature
        self.reduction = reduction
        self.epsilon = epsilon
        self.steps = steps
        self.teacher_sees = teacher_sees

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``ard``, a scalar in nats."""
        attacked = attack_student(student, batch, epsilon=self.epsilon, steps=self.steps)
        guide = teachers[0]
        if self.teacher_sees == "adversarial":
            with torch.no_grad():
                guide = guide.ask(attacked)
        loss = kd_loss(student.ask(attacked).logits, guide.logits, temperature=self.temperature,
                       reduction=self.reduction)  # fmt: skip
        return {"ard": loss}
