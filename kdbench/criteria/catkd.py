"""Transfer of class activation maps: Guo et al. 2023."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria._features import (
    FeatureCriterion,
    full_precision,
    linear_head,
    mean_squared_error,
    paired,
    paired_shapes,
    unit,
)
from kdbench.criteria._options import check_number
from kdbench.criteria.base import Parts


@full_precision
def class_maps(maps: Tensor, weight: Tensor, *, size: int) -> Tensor:
    r"""Where each class is seen, :math:`A_{chw} = \sum_d W_{cd} f_{dhw}`, average-pooled.

    The classifier is linear: so its maps can be pooled, or the maps that it reads, which are mostly fewer.

    Args:
        maps: What the pooling before the classifier reads, `(B, D, H, W)`.
        weight: The classifier's, `(C, D)`.
        size: Side of the result.

    Returns:
        `(B, C, size, size)`, at least float32.
    """
    return torch.einsum("cd,bdhw->bchw", weight.to(maps.dtype), F.adaptive_avg_pool2d(maps, size))


class CATKD(FeatureCriterion):
    r"""The student's class activation maps follow the teacher's.

    .. math:: \tfrac{1}{BCr^2} \lVert A^S - A^T \rVert_2^2, \quad A_{chw} = \sum_d W_{cd} f_{dhw}

    pooled to `r x r`. Both classifiers count without their bias: the student loses its own, for good, and the mean of a
    class's map is then its logit.

    Args:
        size: :math:`r`, side of the maps that are compared.
        normalize: Whether each class's map is divided by its length, :math:`\lVert A_c \rVert_2`.

    Raises:
        ConfigError: The size is not a positive whole number.

    Source: Guo et al. 2023, arXiv:2304.12777, Sec. 3, with the constants of the authors' code.
    Differs from: the authors' code in form alone: the classifier is a 1x1 convolution before the pooling there.
    """

    terms: ClassVar[tuple[str, ...]] = ("catkd",)
    rank: ClassVar[int | None] = 3
    single: ClassVar[bool] = True
    deploys: ClassVar[bool] = True
    weight: Tensor

    def __init__(self, *, size: int = 2, normalize: bool = False) -> None:
        super().__init__()
        check_number("catkd.size", size, above=0)
        if not isinstance(size, int):
            raise ConfigError(f"catkd.size={size}: a whole number is expected")
        self.size, self.normalize = size, normalize

    def parts(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> Parts:
        """The student's classifier without a bias.

        Raises:
            ConfigError: A classifier is not one linear layer behind the pooled last map.
        """
        self.setup(student, teachers, data)
        (old,) = self._head
        head = nn.Linear(old.in_features, old.out_features, bias=False)
        head.weight.data.copy_(old.weight.data)
        return Parts(head)

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Copies the teacher's classifier, and remembers which is the student's.

        Raises:
            ConfigError: Not one tap of each side, or it carries no map; or a classifier is not one linear layer on it.
        """
        super().setup(student, teachers, data)
        (((own, *_), (other, *_)),) = paired_shapes(student, teachers[0])
        self._head = (linear_head("CATKD", student, own),)  # in a tuple: it belongs to the student, not to this module
        weight = linear_head("CATKD", teachers[0], other).weight.detach().clone()
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``catkd``, a scalar in squared logits, or dimensionless where maps are normalised."""
        ((own, other),) = paired(student, teachers[0])
        maps = [class_maps(own, self._head[0].weight, size=self.size), class_maps(other, self.weight, size=self.size)]
        if self.normalize:
            maps = [unit(x.flatten(2)) for x in maps]
        return {"catkd": mean_squared_error(*maps)}
