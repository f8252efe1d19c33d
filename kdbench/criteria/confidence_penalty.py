"""Confidence penalty, a control without a teacher: Pereyra et al. 2017."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria._functional import log_probabilities, soft_cross_entropy
from kdbench.criteria.base import Criterion, Teachers


class ConfidencePenalty(Criterion):
    r"""Negative entropy of the prediction: what label smoothing is with the divergence's direction turned round.

    .. math:: -\tfrac1B \sum_i H(p_i) = \tfrac1B \sum_i \sum_c p_{i,c} \log p_{i,c}

    Source: Pereyra et al. 2017, arXiv:1701.06548, Sec. 3.
    """

    terms: ClassVar[tuple[str, ...]] = ("confidence_penalty",)
    teachers: ClassVar[Teachers] = Teachers.NONE

    def __init__(self) -> None:  # nn.Module's own would take any argument
        super().__init__()

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        r"""The term ``confidence_penalty``, a scalar in :math:`[-\log C, 0]` nats; teachers are not looked at."""
        log_p = log_probabilities(student.logits)
        return {"confidence_penalty": -soft_cross_entropy(log_p, log_p).mean()}
