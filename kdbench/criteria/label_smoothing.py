"""Label smoothing: the teacher that knows nothing, a control for every distillation gain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria._functional import log_probabilities
from kdbench.criteria._options import check_choice, check_number
from kdbench.criteria.base import Criterion, Teachers


def smoothed_cross_entropy(logits: Tensor, target: Tensor, *, epsilon: float, convention: str) -> Tensor:
    r"""Cross-entropy of each sample with a target that leaves some probability to the other classes.

    .. math:: -\Bigl[(1 - (C-1)u) \log p_{i,y_i} + u \sum_{c \ne y_i} \log p_{i,c}\Bigr]

    Args:
        logits: Unnormalised scores, `(B, C)`.
        target: Class of each sample, `(B,)` int64.
        epsilon: Smoothing :math:`\epsilon \in [0, 1)`; 0 is the plain cross-entropy.
        convention: ``uniform``: :math:`u = \epsilon / C`; ``others``: :math:`u = \epsilon / (C - 1)`.

    Returns:
        `(B,)`, nats, at least float32.
    """
    log_p = log_probabilities(logits)
    classes = log_p.shape[-1]
    other = epsilon / (classes if convention == "uniform" else classes - 1)
    true = 1.0 - (classes - 1) * other
    of_target = log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return -((true - other) * of_target + other * log_p.sum(dim=-1))


class LabelSmoothing(Criterion):
    r"""Cross-entropy with the same softened label for every sample of a class.

    .. math:: -\tfrac1B \sum_i \Bigl[(1 - (C-1)u) \log p_{i,y_i} + u \sum_{c \ne y_i} \log p_{i,c}\Bigr]

    Args:
        epsilon: Smoothing :math:`\epsilon \in (0, 1)`.
        convention: ``uniform``: :math:`u = \epsilon / C`, as PyTorch; ``others``: :math:`u = \epsilon / (C - 1)`, so
            that the true class keeps :math:`1 - \epsilon`, as Zhang & Sabuncu (arXiv:2006.05065). The second at
            :math:`\epsilon (C - 1) / C` is the first at :math:`\epsilon`.

    Raises:
        ConfigError: The convention does not exist, or ``epsilon`` is out of range.

    Source: Szegedy et al. 2016, arXiv:1512.00567, Sec. 7.
    """

    terms: ClassVar[tuple[str, ...]] = ("label_smoothing",)
    teachers: ClassVar[Teachers] = Teachers.NONE

    def __init__(self, *, epsilon: float = 0.1, convention: str = "uniform") -> None:
        super().__init__()
        check_number("label_smoothing.epsilon", epsilon, above=0, below=1)
        check_choice("label_smoothing.convention", convention, ("uniform", "others"))
        self.epsilon = epsilon
        self.convention = convention

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``label_smoothing``, a scalar in nats; teachers are not looked at."""
        options = {"epsilon": self.epsilon, "convention": self.convention}
        loss = batch.over_labels(lambda target: smoothed_cross_entropy(student.logits, target, **options))
        return {"label_smoothing": loss.mean()}
