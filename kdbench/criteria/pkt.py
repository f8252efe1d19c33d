"""Probabilistic knowledge transfer: Passalis and Tefas 2018."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria._features import FeatureCriterion, full_precision, paired

_EPSILON = 1e-7


def neighbour_probabilities(vectors: Tensor) -> Tensor:
    r"""How near each sample is to each: :math:`p_{ij} \propto \tfrac12 (1 + \cos(e_i, e_j))`, rows summing to one.

    Args:
        vectors: Embeddings :math:`e`, `(B, D)`; :math:`10^{-7}` is added to their lengths.

    Returns:
        `(B, B)`, probabilities; the sample itself is one of its neighbours.
    """
    directions = vectors / (vectors.norm(dim=1, keepdim=True) + _EPSILON)
    kernel = (directions @ directions.T + 1.0) / 2.0
    return kernel / kernel.sum(dim=1, keepdim=True)


@full_precision
def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Divergence of the student's neighbour probabilities from the teacher's, averaged over all entries.

    .. math:: \tfrac{1}{B^2} \sum_{ij} p^T_{ij} \log \frac{p^T_{ij} + \epsilon}{p^S_{ij} + \epsilon}, \quad
        \epsilon = 10^{-7}

    Args:
        student: `(B, D)`.
        teacher: `(B, D')`.

    Returns:
        Scalar in nats, B times smaller than the mean divergence of a row.
    """
    p, q = neighbour_probabilities(teacher), neighbour_probabilities(student)
    return (p * ((p + _EPSILON) / (q + _EPSILON)).log()).mean()


class PKT(FeatureCriterion):
    r"""Each sample's neighbours in the student are those in the teacher; widths need not agree.

    .. math:: \tfrac{1}{B^2} \sum_{ij} p^T_{ij} \log \frac{p^T_{ij} + \epsilon}{p^S_{ij} + \epsilon}, \quad
        p_{ij} \propto \tfrac12 (1 + \cos(e_i, e_j))

    Features that are not vectors are flattened; several taps are added.

    Source: Passalis & Tefas 2018, arXiv:1803.10837, Sec. 3; the mean over :math:`B^2` is the released code's.
    Differs from: the paper, which sums where the code averages: the published weight 30000 is for the mean.
    """

    terms: ClassVar[tuple[str, ...]] = ("pkt",)

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``pkt``, a scalar in nats."""
        losses = [pkt_loss(own.flatten(1), other.flatten(1)) for own, other in paired(student, teachers[0])]
        return {"pkt": torch.stack(losses).sum()}
