"""Softmax regression representation learning: Yang et al. 2021."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria._features import (
    FeatureCriterion,
    full_precision,
    linear_head,
    mean_squared_error,
    paired,
    paired_shapes,
)


@full_precision
def classify(vectors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Logits `(B, C)` that a linear classifier, `(C, D)` and `(C,)`, gives `vectors`, `(B, D)`."""
    return F.linear(vectors, weight, bias)


class SRRL(FeatureCriterion):
    r"""The teacher's classifier gives the student's mapped representation the logits that it gives the teacher's.

    .. math:: \tfrac{1}{BD} \lVert r - g^T \rVert_F^2, \qquad \tfrac{1}{BC} \lVert W_T r + b_T - z^T \rVert_F^2, \qquad
        r = \mathrm{ReLU}(\mathrm{BN}(W g^S))

    The teacher's classifier is a constant, copied; it is found anew when a training resumes.

    Source: Yang et al. 2021, OpenReview ZzwDy_wiWv, Sec. 3; the map as in the SimKD toolbox.
    Differs from: the authors' code, which maps the last map before pooling it; the toolbox, which adds a KD term of
        weight 1.
    """

    terms: ClassVar[tuple[str, ...]] = ("srrl_feature", "srrl_logit")
    rank: ClassVar[int | None] = 1
    single: ClassVar[bool] = True
    weight: Tensor
    bias: Tensor

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Creates the map, and copies the teacher's classifier.

        Raises:
            ConfigError: Not one tap of each side, or it carries no vector; or the teacher's classifier is not one
                linear layer on the teacher's tap.
        """
        super().setup(student, teachers, data)
        (((own,), (other,)),) = paired_shapes(student, teachers[0])
        head = linear_head("SRRL", teachers[0], other)
        bias = head.weight.new_zeros(head.out_features) if head.bias is None else head.bias
        self.register_buffer("weight", head.weight.detach().clone(), persistent=False)
        self.register_buffer("bias", bias.detach().clone(), persistent=False)
        self.connector = nn.Sequential(nn.Linear(own, other, bias=False), nn.BatchNorm1d(other), nn.ReLU())

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The terms ``srrl_feature`` and ``srrl_logit``, scalars in squared units of features and of logits."""
        ((own, other),) = paired(student, teachers[0])
        mapped = self.connector(own)
        return {
            "srrl_feature": mean_squared_error(mapped, other),
            "srrl_logit": mean_squared_error(classify(mapped, self.weight, self.bias), teachers[0].logits.detach()),
        }
