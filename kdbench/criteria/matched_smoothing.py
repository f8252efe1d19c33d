"""Label smoothing as strong as a teacher's targets: what is left of them once they no longer tell classes apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria._functional import ensemble_logits, kl_divergence, log_probabilities
from kdbench.criteria._options import check_number
from kdbench.criteria.base import Criterion, Teachers


def without_dark_knowledge(log_p: Tensor, target: Tensor) -> Tensor:
    r"""Targets that keep a teacher's probability of the true class, and spread the rest evenly.

    .. math:: q_y = p_y, \quad q_c = \frac{1 - p_y}{C - 1} \;\; (c \ne y)

    Args:
        log_p: Log-probabilities :math:`\log p`, `(B, C)`.
        target: True classes :math:`y`, `(B,)` int64.

    Returns:
        :math:`\log q`, `(B, C)`: finite where ``log_p`` is, also for a teacher that is certain.
    """
    others = log_p.scatter(-1, target[:, None], -float("inf")).logsumexp(dim=-1, keepdim=True)
    spread = others - log_p.new_tensor(log_p.shape[-1] - 1).log()
    return spread.expand_as(log_p).scatter(-1, target[:, None], log_p.gather(-1, target[:, None]))


class MatchedSmoothing(Criterion):
    r"""Distillation from a teacher whose targets say how sure it is of the label, and nothing else: a control.

    .. math:: \tau^2 \, \tfrac1B \sum_i \mathrm{KL}\bigl(q_i \,\|\, p^S_i(\tau)\bigr), \quad
              q_{i,y_i} = p^T_{i,y_i}(\tau), \; q_{i,c} = \frac{1 - q_{i,y_i}}{C - 1}

    Label smoothing with :math:`\epsilon_i = 1 - p^T_{i,y_i}(\tau)`. What plain distillation gains over it comes from
    similarities between classes; what both gain over hard labels, from smoothness and from weighting samples.

    Args:
        temperature: :math:`\tau > 0`, dimensionless, on both sides.

    Raises:
        ConfigError: ``temperature`` is not positive.

    Source: ours, after DKPP of Furlanello et al. 2018, arXiv:1805.04770, Sec. 3.1, which destroys the order of the
        wrong classes.
    Differs from: DKPP, which permutes the teacher's other outputs; this is the mean over all permutations.
    """

    terms: ClassVar[tuple[str, ...]] = ("matched_smoothing",)
    one_label: ClassVar[bool] = True
    teachers: ClassVar[Teachers] = Teachers.ANY

    def __init__(self, *, temperature: float = 4.0) -> None:
        super().__init__()
        check_number("matched_smoothing.temperature", temperature, above=0)
        self.temperature = temperature

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``matched_smoothing``, a scalar in nats; several teachers count as their ensemble."""
        logits = ensemble_logits([teacher.logits.detach() for teacher in teachers], temperature=self.temperature)
        log_q = without_dark_knowledge(log_probabilities(logits, self.temperature), batch.target)
        divergence = kl_divergence(log_q, log_probabilities(student.logits, self.temperature))
        return {"matched_smoothing": self.temperature**2 * divergence.mean()}
