"""Correlation congruence, as the benchmark computes it: Peng et al. 2019."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria._features import FeatureCriterion, full_precision, paired, paired_shapes
from kdbench.criteria._options import check_number


@full_precision
def cc_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Product of the errors of neighbours in the batch, :math:`\tfrac{1}{B-1} \sum_{b<B} \delta_b^\top \delta_{b+1}`.

    Args:
        student: Embeddings, `(B, D)`.
        teacher: Embeddings, same shape; not held constant, because the teacher's embedding is trained too.

    Returns:
        Scalar in squared units of the embeddings, not negative, with :math:`\delta = |e^S - e^T|`; zero for one sample.
    """
    error = (student - teacher).abs()
    return (error[:-1] * error[1:]).sum() / max(len(error) - 1, 1)


class CC(FeatureCriterion):
    r"""Linear embeddings of both networks err on the same samples as little as possible.

    .. math:: \tfrac{1}{B-1} \sum_{b=1}^{B-1} \delta_b^\top \delta_{b+1}, \quad
        \delta_b = \lvert W_S g^S_b + w_S - W_T g^T_b - w_T \rvert

    Args:
        dim: Width of the embeddings.

    Raises:
        ConfigError: The width is not positive.

    Source: Peng et al. 2019, arXiv:1904.01802, in the reading of RepDistiller, whence its published results.
    Differs from: the paper, which compares kernel matrices of the two batches (RBF by a Taylor series).
    """

    terms: ClassVar[tuple[str, ...]] = ("cc",)
    rank: ClassVar[int | None] = 1
    single: ClassVar[bool] = True

    def __init__(self, *, dim: int = 128) -> None:
        super().__init__()
        check_number("cc.dim", dim, above=0)
        self.dim = dim

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Creates the embeddings of both sides.

        Raises:
            ConfigError: Not one tap of each side, or it carries no vector.
        """
        super().setup(student, teachers, data)
        (((own,), (other,)),) = paired_shapes(student, teachers[0])
        self.student_embedding = nn.Linear(own, self.dim)
        self.teacher_embedding = nn.Linear(other, self.dim)

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``cc``, a scalar."""
        ((own, other),) = paired(student, teachers[0])
        return {"cc": cc_loss(self.student_embedding(own), self.teacher_embedding(other))}
