"""CMKD-style correlation matching, reconstructed from the abstract of Niu et al. 2024."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria._functional import log_probabilities, soft_cross_entropy
from kdbench.criteria._options import check_choice, check_number
from kdbench.criteria.base import Criterion
from kdbench.criteria.dist import correlation
from kdbench.criteria.lskd import standardize

_SPACES = ("logits", "probabilities")
_DIFFICULT = ("spearman", "pearson", "neither")


def ranks(scores: Tensor, *, softness: float) -> Tensor:
    r"""Rank of each class, 1 for the largest score, made differentiable by sigmoids.

    .. math:: r_c = 1 + \sum_{c' \ne c} \mathrm{sigmoid}\Bigl(\frac{z_{c'} - z_c}{\epsilon}\Bigr)

    Args:
        scores: `(..., C)`; takes `(..., C, C)` of memory on the way.
        softness: :math:`\epsilon \ge 0`, in units of the scores; 0 gives the ranks themselves, their mean for equal
            scores, which have no gradient.

    Returns:
        `(..., C)`, in [1, C].
    """
    ahead = scores.unsqueeze(-2) - scores.unsqueeze(-1)
    share = (ahead / softness).sigmoid() if softness else (1 + ahead.sign()) / 2
    return 0.5 + share.sum(dim=-1)  # each class is half ahead of itself


def difficulty(logits: Tensor) -> Tensor:
    r"""Entropy of a prediction as a part of the largest possible, :math:`h = H(p) / \log C`.

    Args:
        logits: Unnormalised scores, `(B, C)`.

    Returns:
        `(B,)`, in [0, 1].
    """
    log_p = log_probabilities(logits)
    return soft_cross_entropy(log_p, log_p) / math.log(logits.shape[-1])


class CMKD(Criterion):
    r"""Values follow the teacher's by Pearson's correlation, ranks by Spearman's, more or less by difficulty.

    .. math:: \mathrm{pearson} = \tfrac1B \sum_i (1 - h_i) \bigl(1 - \rho(a^S_i, a^T_i)\bigr), \qquad
        \mathrm{spearman} = \tfrac1B \sum_i h_i \bigl(1 - \rho(r_\epsilon(\hat z^S_i), r_0(\hat z^T_i))\bigr)

    with standardised logits :math:`\hat z`, :math:`a = \hat z` or :math:`\mathrm{softmax}(\hat z / \tau)`, correlation
    :math:`\rho` over the classes, ranks :math:`r` (:func:`ranks`), and the teacher's entropy :math:`h`
    (:func:`difficulty`). Ranks are those of logits: among nearly zero probabilities they would be noise.

    A reconstruction, CMKD-style, weights unverified: the abstract tells of both correlations and of weights that follow
    the difficulty, not of their equations.

    Args:
        space: What Pearson's correlation is of, ``logits`` or ``probabilities``.
        temperature: :math:`\tau > 0` of ``probabilities``, dimensionless; ``logits`` have none.
        standardize: Whether the logits have mean 0 and deviation 1 over the classes; without it :math:`\epsilon` means
            something else for each sample. Pearson's correlation of logits does not depend on it.
        softness: :math:`\epsilon > 0` of the student's ranks; the teacher's are hard.
        difficult: Which term difficult samples lean on: ``spearman``, as above; ``pearson``, with :math:`h` and
            :math:`1 - h` exchanged; ``neither``, with 1 in place of both.

    Raises:
        ConfigError: An option has a value that does not exist or is out of range.

    Source: Niu et al. 2024, arXiv:2410.06561, abstract only.
    Differs from: the paper in ways unknown: equations, kind of soft ranks, measure of difficulty and its direction.
    """

    terms: ClassVar[tuple[str, ...]] = ("pearson", "spearman")

    def __init__(
        self,
        *,
        space: str = "logits",
        temperature: float = 4.0,
        standardize: bool = True,
        softness: float = 0.1,
        difficult: str = "spearman",
    ) -> None:
        super().__init__()
        check_choice("cmkd.space", space, _SPACES)
        check_number("cmkd.temperature", temperature, above=0)
        check_number("cmkd.softness", softness, above=0)
        check_choice("cmkd.difficult", difficult, _DIFFICULT)
        self.space = space
        self.temperature = temperature
        self.standardize = standardize
        self.softness = softness
        self.difficult = difficult

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The terms ``pearson`` and ``spearman``, dimensionless scalars in [0, 2]."""
        guide = teachers[0].logits.detach()
        h = difficulty(guide)
        own, guide = self._scores(student.logits), self._scores(guide)
        pearson = 1.0 - correlation(self._values(own), self._values(guide))
        spearman = 1.0 - correlation(ranks(own, softness=self.softness), ranks(guide, softness=0.0))
        if self.difficult == "neither":
            return {"pearson": pearson.mean(), "spearman": spearman.mean()}
        of_ranks = h if self.difficult == "spearman" else 1.0 - h
        return {"pearson": ((1.0 - of_ranks) * pearson).mean(), "spearman": (of_ranks * spearman).mean()}

    def _scores(self, logits: Tensor) -> Tensor:
        return standardize(logits) if self.standardize else logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _values(self, scores: Tensor) -> Tensor:
        return scores if self.space == "logits" else log_probabilities(scores, self.temperature).exp()
