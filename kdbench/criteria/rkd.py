"""Relational knowledge distillation: Park et al. 2019."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria._features import FeatureCriterion, full_precision, paired, unit


def relative_distances(vectors: Tensor) -> Tensor:
    r"""Distances between samples in units of their mean, :math:`d_{jk} = \lVert e_j - e_k \rVert_2 / \mu`.

    The mean :math:`\mu` over pairs of different samples carries gradient; a distance of zero has none.

    Args:
        vectors: Embeddings :math:`e`, `(B, D)`.

    Returns:
        `(B, B)`, not negative, zero on the diagonal.
    """
    # Without matrix products: they lose the distances of near samples to cancellation.
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    pairs = max(len(vectors) * (len(vectors) - 1), 1)
    return distances / (distances.sum() / pairs).clamp_min(1e-12)


def angles(vectors: Tensor) -> Tensor:
    r"""Cosine at each vertex :math:`i` between two others, :math:`\cos\angle(e_j, e_i, e_k)`.

    Args:
        vectors: Embeddings :math:`e`, `(B, D)`.

    Returns:
        `(B, B, B)` by `[i, j, k]`, in [-1, 1]; zero where j = i or k = i. Memory grows as :math:`B^3`.
    """
    directions = unit(vectors.unsqueeze(0) - vectors.unsqueeze(1))
    return directions @ directions.transpose(1, 2)


@full_precision
def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Smooth L1 (:math:`\beta = 1`) between relative distances, averaged over all :math:`B^2` entries.

    Args:
        student: `(B, D)`.
        teacher: `(B, D')`.

    Returns:
        Scalar, dimensionless; zero when the two sets of points are similar.
    """
    return F.smooth_l1_loss(relative_distances(student), relative_distances(teacher))


@full_precision
def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Smooth L1 (:math:`\beta = 1`) between cosines, averaged over all :math:`B^3` entries.

    Args:
        student: `(B, D)`.
        teacher: `(B, D')`.

    Returns:
        Scalar, dimensionless; zero when the two sets of points are similar.
    """
    return F.smooth_l1_loss(angles(student), angles(teacher))


class RKD(FeatureCriterion):
    r"""Distances and angles among the student's embeddings follow those of its teacher; widths need not agree.

    .. math:: L_D = \tfrac{1}{B^2} \sum_{jk} h(d^S_{jk} - d^T_{jk}), \qquad
        L_A = \tfrac{1}{B^3} \sum_{ijk} h(\cos\angle^S_{jik} - \cos\angle^T_{jik})

    with the smooth L1 :math:`h`, and distances :math:`d` in units of their mean. Features that are not vectors are
    flattened.

    Source: Park et al. 2019, arXiv:1904.05068, Sec. 3.2; published weights 25 and 50.
    Differs from: the paper, which sums over pairs and triplets: the released code averages over all entries, and so do
        we, because the weights were tuned for that; the released code keeps equal samples 1e-6 apart.
    """

    terms: ClassVar[tuple[str, ...]] = ("rkd_distance", "rkd_angle")

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The terms ``rkd_distance`` and ``rkd_angle``, scalars summed over taps."""
        pairs = [(own.flatten(1), other.flatten(1)) for own, other in paired(student, teachers[0])]
        return {
            "rkd_distance": torch.stack([rkd_distance_loss(*pair) for pair in pairs]).sum(),
            "rkd_angle": torch.stack([rkd_angle_loss(*pair) for pair in pairs]).sum(),
        }
