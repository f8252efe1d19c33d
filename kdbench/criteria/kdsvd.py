"""Distillation of principal vectors: Lee et al. 2018."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria._features import FeatureCriterion, full_precision, paired, paired_shapes, unit
from kdbench.criteria._options import check_number

_SPARE = 3  # more vectors of the student than of the teacher, for those that changed places
_DISTINCT = 1e-6


class _LeadingVectors(torch.autograd.Function):
    r"""Right singular vectors of the largest singular values, with a derivative that forgives equal ones.

    .. math:: \mathrm{d}v_j = \sum_{i \ne j} v_i \, \frac{v_i^\top \mathrm{d}(X^\top X) \, v_j}{\lambda_j - \lambda_i}

    That of :func:`torch.linalg.svd` is NaN as soon as any two singular values agree, wanted or not, as they do at zero
    for a map with two dead channels. Here only gaps of the wanted vectors count, and those below :math:`10^{-6}` of the
    largest eigenvalue give nothing.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Vectors `(B, C, count)` and all eigenvalues `(B, C)`, from the largest, of `rows`, `(B, N, C)`."""
        values, vectors = torch.linalg.eigh(rows.transpose(1, 2) @ rows)
        values, vectors = values.flip(1).clamp_min(0.0), vectors.flip(2)
        ctx.save_for_backward(rows, values, vectors)
        ctx.mark_non_differentiable(values)
        return vectors[:, :, :count].contiguous(), values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradient of the rows."""
        rows, values, vectors = ctx.saved_tensors
        count = gradients[0].shape[2]
        gaps = values[:, None, :count] - values[:, :, None]
        inverse = torch.where(gaps.abs() > _DISTINCT * values[:, :1, None], 1.0 / gaps, 0.0)
        of_gram = vectors @ (vectors.transpose(1, 2) @ gradients[0] * inverse) @ vectors[:, :, :count].transpose(1, 2)
        return rows @ (of_gram + of_gram.transpose(1, 2)), None


def leading_vectors(maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    r"""The strongest directions in channel space: right singular vectors of the pixels by channels matrix.

    Args:
        maps: `(B, C, H, W)`; numbers that are not finite count as 0, since no decomposition takes them.
        count: How many, at most `min(C, H * W)`.

    Returns:
        Unit vectors `(B, C, count)`, float64, of either sign; singular values `(B, count)`, from the largest.
    """
    rows = maps.flatten(2).transpose(1, 2).double().nan_to_num(0.0, 0.0, 0.0)
    vectors, values = _LeadingVectors.apply(rows, count)  # pyright: ignore[reportGeneralTypeIssues]
    return vectors, values[:, :count].sqrt()


@full_precision
def aligned_vectors(student: Tensor, teacher: Tensor, *, components: int) -> Tensor:
    """The teacher's strongest directions of one stage, and those of the student that are most like them.

    Args:
        student: `(B, C, H, W)`.
        teacher: `(B, C, H', W')`.
        components: Number k of directions.

    Returns:
        `(2, B, C, k)`, student first, both multiplied by the teacher's singular values, scaled to length one. The
        teacher's sign, which a decomposition leaves open, makes its entries add up to a positive number; the student's
        follows it.
    """
    guide, strength = leading_vectors(teacher, components)
    guide = guide * torch.where(guide.sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
    own, _ = leading_vectors(student, min(components + _SPARE, student.shape[1], student[0, 0].numel()))
    cosines = guide.transpose(1, 2) @ own
    nearest = cosines.abs().argmax(dim=2, keepdim=True)
    own = own.gather(2, nearest.transpose(1, 2).expand(-1, own.shape[1], -1))
    own = own * cosines.gather(2, nearest).sign().transpose(1, 2)
    return (torch.stack([own, guide]) * unit(strength).unsqueeze(1)).to(student.dtype)


@full_precision
def relation_loss(deep: Tensor, shallow: Tensor) -> Tensor:
    r"""Difference of the relations between the channels of two stages, :math:`\tfrac1B \lVert R^S - R^T \rVert_2^2`.

    .. math:: R_{pqn} = \exp\bigl(-(v_{pn} - u_{qn})^2 / 8\bigr)

    Args:
        deep: :math:`v` of both networks, `(2, B, C, k)`.
        shallow: :math:`u` of both networks, `(2, B, C', k)`.

    Returns:
        Scalar, dimensionless: a sum over channels and directions, averaged over the batch.
    """
    student, teacher = (-(deep.unsqueeze(3) - shallow.unsqueeze(2)).square() / 8.0).exp()
    return (student - teacher).square().sum() / len(student)


class KDSVD(FeatureCriterion):
    r"""Relations between the principal vectors of consecutive stages follow those of the teacher.

    .. math:: \sum_{j \ge 2} \tfrac1B \lVert R^S_j - R^T_j \rVert_2^2, \quad
        R_{j,pqn} = \exp\bigl(-(v_{j,pn} - v_{j-1,qn})^2 / 8\bigr)

    A stage's map is a matrix of pixels by channels; :math:`v_j` are its leading right singular vectors, the student's
    matched to the teacher's among three more. Channels must agree, sides need not. Computed in float64.

    Args:
        components: Number of directions of each stage.

    Raises:
        ConfigError: The number is not positive.

    Source: Lee et al. 2018, arXiv:1807.06819, Sec. 3, with the constants of RepDistiller.
    Differs from: RepDistiller, whose gradient is not a number where singular values agree: such pairs give nothing
        here; and whose teacher keeps the sign that its linear algebra library happened to give, on which the relation
        of two stages depends. mdistiller decomposes the `(C * H) x W` matrix.
    """

    terms: ClassVar[tuple[str, ...]] = ("kdsvd",)
    per_sample: ClassVar[bool] = True
    rank: ClassVar[int | None] = 3

    def __init__(self, *, components: int = 1) -> None:
        super().__init__()
        check_number("kdsvd.components", components, above=0)
        self.components = components

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Checks that stages have equal channels.

        Raises:
            ConfigError: Fewer than two stages, channels that differ, or maps smaller than the number of directions.
        """
        super().setup(student, teachers, data)
        pairs = paired_shapes(student, teachers[0])
        if len(pairs) < 2:
            raise ConfigError(f"KDSVD relates consecutive stages, but {student.name} and {teachers[0].name} share one")
        for own, other in pairs:
            if own[0] != other[0]:
                raise ConfigError(
                    f"KDSVD needs equal channels at every stage, but {student.name} has {own[0]} where "
                    f"{teachers[0].name} has {other[0]}"
                )
            if self.components > min(own[0], own[1] * own[2], other[1] * other[2]):
                raise ConfigError(f"kdsvd.components={self.components}: more than a map of {own} or {other} has")

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``kdsvd``, a scalar summed over pairs of consecutive stages."""
        stages = [aligned_vectors(*pair, components=self.components) for pair in paired(student, teachers[0])]
        return {"kdsvd": torch.stack([relation_loss(deep, shallow) for shallow, deep in pairwise(stages)]).sum()}
