"""ICD, invariant consistency distillation, later named DCD: Giakoumoglou & Stathaki 2024."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria._functional import kl_divergence
from kdbench.criteria._options import check_number
from kdbench.criteria.base import Criterion


def contrast(similarity: Tensor) -> Tensor:
    r"""How badly each student finds the teacher of its own sample among those of the batch.

    .. math:: -\tfrac1B \sum_i \log \mathrm{softmax}_j(S_{ij})_i

    Args:
        similarity: :math:`S_{ij}` of student :math:`i` and teacher :math:`j`, `(B, B)`.

    Returns:
        Scalar in nats, not negative; samples of the same class are among the negatives.
    """
    return -similarity.log_softmax(dim=1).diagonal().mean()


def invariance(similarity: Tensor, *, detach_target: bool = False) -> Tensor:
    r"""Divergence between what student :math:`i` sees among the teachers and teacher :math:`i` among the students.

    .. math:: \tfrac1B \sum_i \mathrm{KL}(Q_i \,\|\, P_i), \quad P_i = \mathrm{softmax}_j(S_{ij}), \quad
        Q_i = \mathrm{softmax}_k(S_{ki})

    Args:
        similarity: :math:`S_{ij}` of student :math:`i` and teacher :math:`j`, `(B, B)`.
        detach_target: Whether :math:`Q` is a constant; the published loss trains through both.

    Returns:
        Scalar in nats, not negative; zero for a symmetric :math:`S`.
    """
    target = similarity.T.log_softmax(dim=1)
    return kl_divergence(target.detach() if detach_target else target, similarity.log_softmax(dim=1)).mean()


class ICD(Criterion):
    r"""Contrast of embedded features inside the batch, and agreement of its two directions.

    .. math:: S = \min(e^\theta, \kappa_{\max}) \, u v^\top, \quad
        u = \frac{W_S g^S + b_S}{\|W_S g^S + b_S\|}, \quad v = \frac{W_T g^T + b_T}{\|W_T g^T + b_T\|}

    of the features :math:`g` of the batch; the terms are :func:`contrast` and :func:`invariance` of :math:`S`. Both
    embeddings and the scale :math:`\theta` are trained with the student; there is no memory bank.

    Args:
        dim: Width of the embeddings.
        log_scale: :math:`\theta` at the start; the softmax's temperature is :math:`e^{-\theta}`.
        max_scale: :math:`\kappa_{\max} > 0`; above it :math:`\theta` gets no gradient.
        detach_target: Whether the divergence's target is a constant.

    Raises:
        ConfigError: An option is out of range; later, a side does not give exactly one tap, or it is no vector.

    Source: Giakoumoglou & Stathaki 2024, arXiv:2407.11802; loss from its code, giakoumoglou/distillers.
    Differs from: the released code, which also adds a learned constant to :math:`S`: both softmaxes cancel it, so it
        has no gradient, and is left out.
    """

    terms: ClassVar[tuple[str, ...]] = ("contrast", "invariance")

    def __init__(
        self, *, dim: int = 128, log_scale: float = 1.0, max_scale: float = 10.0, detach_target: bool = False
    ) -> None:
        super().__init__()
        check_number("icd.dim", dim, above=0)
        check_number("icd.max_scale", max_scale, above=0)
        check_number("icd.log_scale", log_scale, below=math.log(max_scale))
        self.dim = dim
        self.max_scale = max_scale
        self.detach_target = detach_target
        self.log_scale = nn.Parameter(torch.tensor(float(log_scale)))

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Creates the embeddings of both sides.

        Raises:
            ConfigError: A side does not give exactly one tap, or it is no vector.
        """
        super().setup(student, teachers, data)
        self.embed_student = nn.Linear(_width(student), self.dim)
        self.embed_teacher = nn.Linear(_width(teachers[0]), self.dim)

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The terms ``contrast`` and ``invariance``, scalars in nats."""
        (own,), (guide,) = student.features.values(), teachers[0].features.values()
        with torch.autocast(own.device.type, enabled=False):
            u = nn.functional.normalize(self.embed_student(own.to(self.log_scale.dtype)), dim=1)
            v = nn.functional.normalize(self.embed_teacher(guide.detach().to(self.log_scale.dtype)), dim=1)
            similarity = self.log_scale.exp().clamp(max=self.max_scale) * (u @ v.T)
            return {
                "contrast": contrast(similarity),
                "invariance": invariance(similarity, detach_target=self.detach_target),
            }


def _width(spec: NetworkSpec) -> int:
    if len(spec.shapes) != 1:
        raise ConfigError(f"icd: {spec.name} gives {len(spec.shapes)} taps; name exactly one, such as pooled")
    ((tap, shape),) = spec.shapes.items()
    if len(shape) != 1:
        raise ConfigError(f"icd: tap {tap!r} of {spec.name} has shape {shape}; a vector is needed, such as pooled")
    return shape[0]
