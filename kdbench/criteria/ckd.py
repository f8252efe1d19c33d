"""Comparative knowledge distillation: Wilf et al. 2023."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria._functional import kd_loss
from kdbench.criteria._options import check_choice, check_number
from kdbench.criteria.base import Criterion
from kdbench.criteria.cc import CC
from kdbench.criteria.fitnet import FitNet
from kdbench.criteria.vid import VID

# What becomes of the two groups' means, with a share in [0, 1]; the first is the method, the others its ablations.
_COMBINATIONS: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "diff": lambda first, second, share: first - second,
    "mean": lambda first, second, share: (first + second) / 2,
    "mixup": lambda first, second, share: share * first + (1 - share) * second,
}
_VARIANTS = ("mse", "kl")


def compare_groups(values: Tensor, first: int, second: int, *, combine: str, share: Tensor) -> Tensor:
    r"""Compares the means of two groups of samples in each tuple of the batch.

    .. math:: d = \tfrac1p \sum_{i \in P} z_i - \tfrac1q \sum_{j \in Q} z_j

    The batch is read as tuples one after another: p samples of the first group, then q of the second. Samples at the
    end that fill no tuple are left out.

    Args:
        values: Logits, labels or features, `(B, ...)`.
        first: Size p of the first group, at least 1.
        second: Size q of the second group, at least 1.
        combine: ``diff``, as above; ``mean`` of the two means; ``mixup``, their mixture by ``share``.
        share: Of the first group in ``mixup``, a scalar in [0, 1]; the others do not look at it.

    Returns:
        `(B // (p + q), ...)`.
    """
    size = first + second
    tuples = values[: len(values) // size * size].unflatten(0, (-1, size))
    return _COMBINATIONS[combine](tuples[:, :first].mean(dim=1), tuples[:, first:].mean(dim=1), share)


class CKD(Criterion):
    r"""The student compares groups of samples as the teacher does, so that few answers of it give many targets.

    .. math:: \mathrm{comparison} = \ell(d^S, d^T), \qquad \mathrm{label\_comparison} = \ell(d^S, d^y), \qquad
        d = \tfrac1p \sum_{i \in P} z_i - \tfrac1q \sum_{j \in Q} z_j

    of logits before any softmax, and of one-hot labels for :math:`d^y`. The published objective is the sum of both with
    no cross-entropy: it leaves a constant per class undetermined.

    Args:
        variant: :math:`\ell`: ``mse``, the mean square over all elements (the release of 2025); ``kl``,
            :math:`\tau^2 \mathrm{KL}` of the softmax of the differences (the first release).
        first_group: Size p of the first group.
        second_group: Size q of the second group.
        combine: ``diff``; its ablations are ``mean`` and ``mixup`` with one uniform share per batch.
        temperature: :math:`\tau > 0` of ``kl``, dimensionless; ``mse`` has none.

    Raises:
        ConfigError: An option has a value that does not exist or is out of range.

    Source: Wilf et al. 2023, arXiv:2311.02253; losses from its code, alextxu/ckd.
    Differs from: the released code, which draws up to 100,000 tuples once from the images of the budget, whose answers
        it keeps from one view, and gives each group a forward pass of its own. Here every batch of the ordinary loader
        is cut into tuples, new ones in each epoch, and the teacher sees the student's view of an image;
        ``budget.teacher_queries`` limits which images there are.
    """

    terms: ClassVar[tuple[str, ...]] = ("comparison", "label_comparison")

    def __init__(
        self,
        *,
        variant: str = "mse",
        first_group: int = 1,
        second_group: int = 1,
        combine: str = "diff",
        temperature: float = 4.0,
    ) -> None:
        super().__init__()
        check_choice("ckd.variant", variant, _VARIANTS)
        check_number("ckd.first_group", first_group, above=0)
        check_number("ckd.second_group", second_group, above=0)
        check_choice("ckd.combine", combine, _COMBINATIONS)
        check_number("ckd.temperature", temperature, above=0)
        self.variant = variant
        self.first_group = first_group
        self.second_group = second_group
        self.combine = combine
        self.temperature = temperature

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The terms ``comparison`` and ``label_comparison``: scalars, in nats for ``kl``, squared logits for ``mse``.

        Both are zero for the rest of an epoch that is too small for one tuple.
        """
        wide = torch.promote_types(student.logits.dtype, torch.float32)
        labels = batch.over_labels(lambda target: nn.functional.one_hot(target, student.logits.shape[-1]))
        share = torch.rand((), device=labels.device, dtype=wide)
        own, guide, label = (
            compare_groups(values.to(wide), self.first_group, self.second_group, combine=self.combine, share=share)
            for values in (student.logits, teachers[0].logits.detach(), labels)
        )
        return {"comparison": self._distance(own, guide), "label_comparison": self._distance(own, label)}

    def _distance(self, own: Tensor, target: Tensor) -> Tensor:
        if not len(own):  # a mean over nothing is no number
            return own.sum()
        if self.variant == "mse":
            return nn.functional.mse_loss(own, target)
        return kd_loss(own, target, temperature=self.temperature)


class Grouped(Criterion):
    r"""Hands differences between groups, of features and logits, to the criterion that stands behind it in the bases.

    .. math:: \mathcal L(d^S, d^T), \qquad d = \tfrac1p \sum_{i \in P} f_i - \tfrac1q \sum_{j \in Q} f_j

    The method's white-box form. Groups are those of :class:`CKD` under the same sizes. That criterion must read no
    labels: a difference has none.

    Source: Wilf et al. 2023, arXiv:2311.02253; its code, alextxu/ckd (``ckd_inter``).
    """

    per_sample: ClassVar[bool] = False  # a tuple may lie across two devices

    def group(self, first_group: int, second_group: int) -> None:
        """Sets the sizes p and q, each at least 1.

        Raises:
            ConfigError: One is out of range.
        """
        check_number("ckd.first_group", first_group, above=0)
        check_number("ckd.second_group", second_group, above=0)
        self.first_group = first_group
        self.second_group = second_group

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The terms of the criterion behind; zero where there are not two tuples, which BatchNorm needs."""
        if len(student.logits) < 2 * (self.first_group + self.second_group):
            return dict.fromkeys(self.terms, student.logits[:0].float().sum())
        return super().forward(self._compared(student), [self._compared(teacher) for teacher in teachers], batch)

    def _compared(self, output: ModelOutput) -> ModelOutput:
        def compare(values: Tensor) -> Tensor:
            wide = values.to(torch.promote_types(values.dtype, torch.float32))
            return compare_groups(wide, self.first_group, self.second_group, combine="diff", share=wide.new_ones(()))

        features = {name: compare(values) for name, values in output.features.items()}
        return output._replace(logits=compare(output.logits), features=features)


class GroupedFitNet(Grouped, FitNet):
    """:class:`~kdbench.criteria.fitnet.FitNet` of differences between groups.

    Args:
        first_group: Size p of the first group.
        second_group: Size q of the second group.

    Source: Wilf et al. 2023, arXiv:2311.02253, with Romero et al. 2015, arXiv:1412.6550.
    """

    def __init__(self, *, first_group: int = 1, second_group: int = 1) -> None:
        super().__init__()
        self.group(first_group, second_group)


class GroupedVID(Grouped, VID):
    """:class:`~kdbench.criteria.vid.VID` of differences between groups.

    Args:
        first_group: Size p of the first group.
        second_group: Size q of the second group.
        variance: At the start, above 1e-5.

    Source: Wilf et al. 2023, arXiv:2311.02253, with Ahn et al. 2019, arXiv:1904.05835.
    """

    def __init__(self, *, first_group: int = 1, second_group: int = 1, variance: float = 5.0) -> None:
        super().__init__(variance=variance)
        self.group(first_group, second_group)


class GroupedCC(Grouped, CC):
    """:class:`~kdbench.criteria.cc.CC` of differences between groups.

    Args:
        first_group: Size p of the first group.
        second_group: Size q of the second group.
        dim: Width of the embeddings.

    Source: Wilf et al. 2023, arXiv:2311.02253, with Peng et al. 2019, arXiv:1904.01802.
    """

    def __init__(self, *, first_group: int = 1, second_group: int = 1, dim: int = 128) -> None:
        super().__init__(dim=dim)
        self.group(first_group, second_group)
