"""Logit standardisation before any criterion on logits: Sun et al. 2024."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria.base import Criterion
from kdbench.criteria.dkd import DKD
from kdbench.criteria.kd import KD


def standardize(logits: Tensor) -> Tensor:
    r"""Logits of mean 0 and deviation 1 over the classes of each sample.

    .. math:: \frac{z - \bar z}{\sigma(z) + 10^{-7}}, \qquad
        \sigma^2 = \tfrac{1}{C - 1} \sum_c (z_c - \bar z)^2

    The deviation is the unbiased one: the biased one would change the temperature by :math:`\sqrt{C / (C - 1)}`.

    Args:
        logits: Unnormalised scores, `(..., C)`, C at least 2.

    Returns:
        Same shape, at least float32; zeros where all classes are equal.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    deviation, mean = torch.std_mean(wide, dim=-1, keepdim=True)
    return (wide - mean) / (deviation + 1e-7)


class Standardized(Criterion):
    r"""Hands standardised logits of both sides to the criterion that stands behind it in the list of bases.

    .. math:: \mathcal L\bigl(\tfrac{z^S - \bar z^S}{\sigma(z^S)}, \tfrac{z^T - \bar z^T}{\sigma(z^T)}\bigr)

    The student need not match the teacher's size of logits, only their relations. To standardise a criterion:
    ``class StandardizedX(Standardized, X)``; options, terms and version are those of ``X``.

    Source: Sun et al. 2024, arXiv:2403.01427; epsilon and deviation from its code,
        sunshangquan/logit-standardization-KD.
    """

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The terms of the criterion behind."""
        guides = [teacher._replace(logits=standardize(teacher.logits)) for teacher in teachers]
        return super().forward(student._replace(logits=standardize(student.logits)), guides, batch)


class LSKD(Standardized, KD):
    r"""Soft targets of standardised logits.

    .. math:: \tau^2 \, \tfrac1B \sum_i \mathrm{KL}\bigl(\mathrm{softmax}(\hat z^T_i / \tau) \,\|\,
        \mathrm{softmax}(\hat z^S_i / \tau)\bigr), \qquad \hat z = (z - \bar z) / \sigma(z)

    Args:
        temperature: :math:`\tau > 0`, dimensionless: the paper's base temperature.

    Raises:
        ConfigError: The temperature is not positive.

    Source: Sun et al. 2024, arXiv:2403.01427.
    Differs from: nothing known with one teacher; several, which the paper does not have, are standardised before their
        predictions are averaged.
    """

    def __init__(self, *, temperature: float = 2.0) -> None:
        super().__init__(temperature=temperature)


class StandardizedDKD(Standardized, DKD):
    """Decoupled knowledge distillation, :class:`~kdbench.criteria.dkd.DKD`, of standardised logits.

    Source: Sun et al. 2024, arXiv:2403.01427, with Zhao et al. 2022, arXiv:2203.08679.
    Differs from: the released code in what :class:`~kdbench.criteria.dkd.DKD` does.
    """
