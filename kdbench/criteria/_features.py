"""What criteria over features share: which taps meet, at what size, in which precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from kdbench.core.errors import ConfigError
from kdbench.core.types import DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria.base import Criterion

Shape = tuple[int, ...]
_KINDS = {1: "vectors (D,)", 3: "maps (C, H, W)"}


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Gives ``loss`` its positional tensors in at least float32, and turns autocast off inside it.

    Converting the inputs alone would not do: autocast takes matrix products back to half precision.
    """

    @wraps(loss)
    def wide(*tensors: Tensor, **options: Any) -> Tensor:
        with torch.autocast(tensors[0].device.type, enabled=False):
            return loss(*(x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors), **options)

    return wide


@full_precision
def mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean over every element, :math:`\tfrac1n \lVert x^S - x^T \rVert_2^2`.

    Args:
        student: Any shape.
        teacher: Same shape.

    Returns:
        Scalar in squared units of its inputs.
    """
    return F.mse_loss(student, teacher)


@full_precision
def unit(vectors: Tensor) -> Tensor:
    r"""Vectors scaled to length one, :math:`x / \max(\lVert x \rVert_2, 10^{-12})`.

    A zero vector stays zero and gets no gradient; plain normalising would multiply its gradient by :math:`10^{12}`.

    Args:
        vectors: `(..., D)`, of any length.

    Returns:
        Same shape, at least float32; every vector has length 1 or 0.
    """
    absent = (vectors == 0).all(dim=-1, keepdim=True)
    return F.normalize(vectors.masked_fill(absent, 0.0), dim=-1, eps=1e-12)


def pool_alike(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller of their heights and widths, by adaptive average pooling.

    Args:
        student: `(B, C, H, W)`.
        teacher: `(B, C', H', W')`.
    """
    if student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    height, width = map(min, zip(student.shape[2:], teacher.shape[2:], strict=True))
    return F.adaptive_avg_pool2d(student, (height, width)), F.adaptive_avg_pool2d(teacher, (height, width))


def paired(student: ModelOutput, teacher: ModelOutput) -> list[tuple[Tensor, Tensor]]:
    """Features that meet: by position, from the first on, cut to the shorter list; the teacher's as constants."""
    pairs = zip(student.features.values(), teacher.features.values(), strict=False)
    return [(own, other.detach()) for own, other in pairs]


def paired_shapes(student: NetworkSpec, teacher: NetworkSpec) -> list[tuple[Shape, Shape]]:
    """Shapes of what :func:`paired` will give, without the batch dimension."""
    return list(zip(student.shapes.values(), teacher.shapes.values(), strict=False))


def linear_head(criterion: str, spec: NetworkSpec, width: int) -> nn.Linear:
    """The classifier of a network, if it is one linear layer that takes ``width`` features.

    Raises:
        ConfigError: It is not, and ``criterion`` needs it.
    """
    if spec.head is None or spec.head.in_features != width:
        raise ConfigError(
            f"{criterion} needs a network whose classifier is one linear layer on its tap; {spec.name} has none that "
            f"takes {width} features"
        )
    return spec.head


class FeatureCriterion(Criterion):
    """A criterion over pairs of features, which checks that there are some, of the kind that it needs.

    Attributes:
        rank: 1 if its mathematics needs vectors, 3 if it needs maps, ``None`` if either will do.
        single: Whether it reads exactly one tap of each side.
    """

    rank: ClassVar[int | None] = None
    single: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()  # nn.Module's own signature takes any argument, so that no unknown option would be refused

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Checks the taps of both sides.

        Raises:
            ConfigError: A side has no tap, or too many, or one of another rank.
        """
        super().setup(student, teachers, data)
        name = type(self).__name__
        for role, spec in (("student", student), *(("teacher", teacher) for teacher in teachers)):
            if not spec.shapes or (self.single and len(spec.shapes) > 1):
                number = "exactly one tap" if self.single else "at least one tap"
                fix = ("see method.taps" if spec.shapes else f"{spec.name} lacks what method.taps names (last_map is "
                       f"only before a global average pooling); choose other taps or another {role}")  # fmt: skip
                raise ConfigError(f"{name} reads {number} of the {role}, here are {len(spec.shapes)}; {fix}")
            for tap, shape in spec.shapes.items():
                if self.rank not in (None, len(shape)):
                    raise ConfigError(
                        f"{name} reads {_KINDS[self.rank]}, but {tap} of {spec.name} has the shape {shape}; "
                        f"choose another {role} tap in method.taps"
                    )
