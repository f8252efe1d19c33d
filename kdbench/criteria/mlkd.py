"""Multi-level logit distillation: Jin et al. 2023."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria._functional import kd_loss, log_probabilities
from kdbench.criteria._options import check_number
from kdbench.criteria.base import Criterion
from kdbench.criteria.lskd import standardize


def relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Distance of two Gram matrices, :math:`\tfrac1N \lVert P^T {P^T}^\top - P^S {P^S}^\top \rVert_F^2`.

    Args:
        student: :math:`P^S`, `(N, D)`.
        teacher: Same shape.

    Returns:
        Scalar, dimensionless.
    """
    with torch.autocast(student.device.type, enabled=False):
        return (teacher @ teacher.T - student @ student.T).square().sum() / len(student)


def share_below_median(values: Tensor) -> Tensor:
    """Part of ``values``, `(N,)`, that is at most their median (the mean of the middle two), a scalar near 1/2."""
    return (values <= values.quantile(0.5)).to(values.dtype).mean()


class MLKD(Criterion):
    r"""Predictions, relations of samples and relations of classes follow the teacher's, at several temperatures.

    .. math:: \mathrm{instance} = m \sum_{\tau \in \mathcal T} \mathrm{KD}_w(\tau) +
        \sum_{\tau \in \mathcal T_1} \mathrm{KD}_s(\tau) + \sum_{\tau \in \mathcal T_2} \mathrm{KD}_w(\tau), \quad
        \mathrm{class} = c \sum_\tau \tfrac1C \lVert P_T^\top P_T - P_S^\top P_S \rVert_F^2, \quad
        \mathrm{batch} = m \sum_\tau \tfrac1B \lVert P_T P_T^\top - P_S P_S^\top \rVert_F^2

    on the batch as it is (w) and on a strong view of it (s), with :math:`\tau^2` in KD, :math:`P` at :math:`\tau`,
    :math:`\mathcal T_1` the first three temperatures and :math:`\mathcal T_2` the last two. :math:`m` is the share of
    samples whose largest teacher probability, and :math:`c` that of classes whose sum of it, is at most the median:
    numbers near 1/2, which filter nothing. ``mlkd_task`` is the cross-entropy on the strong view.

    A reconstruction in its views alone; the terms are those of the released code.

    Both networks see every sample twice, and published results took up to four times the usual epochs.

    Args:
        temperatures: :math:`\mathcal T`, five of them.
        standardized: Whether KD compares standardised logits; the relations always are those of the logits themselves.

    Raises:
        ConfigError: Not five positive temperatures.

    Source: Jin et al. 2023, CVPR, "Multi-level Logit Distillation", as its released code computes it; standardised: Sun
        et al. 2024, arXiv:2403.01427, and its released code.
    Differs from: the released code, whose strong view has a crop and flip of its own, where ours starts from the weak
        one; the paper, which filters sample by sample and adds the relations of the strong view.
    """

    terms: ClassVar[tuple[str, ...]] = ("mlkd_task", "mlkd_instance", "mlkd_class", "mlkd_batch")

    def __init__(
        self, *, temperatures: Sequence[float] = (4.0, 3.0, 5.0, 2.0, 6.0), standardized: bool = False
    ) -> None:
        super().__init__()
        if len(temperatures) != 5:
            raise ConfigError(f"mlkd.temperatures={list(temperatures)}: five numbers are expected")
        for temperature in temperatures:
            check_number("mlkd.temperatures", temperature, above=0)
        self.temperatures = tuple(map(float, temperatures))
        self.standardized = standardized

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Checks that a strong view can be made.

        Raises:
            ConfigError: The data are no images of 1 or 3 channels.
        """
        super().setup(student, teachers, data)
        if len(data.input_shape) != 3 or data.input_shape[0] not in (1, 3):
            raise ConfigError(
                f"MLKD makes strong views of images with 1 or 3 channels; {data.name} has {data.input_shape}"
            )

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The terms ``mlkd_task``, ``mlkd_instance`` (nats), ``mlkd_class`` and ``mlkd_batch``, scalars."""
        from kdbench.criteria._strong_view import strong_view  # torchvision, which no other criterion needs

        inputs = strong_view(batch.inputs)
        with torch.no_grad():
            strong_guide = teachers[0].ask(inputs).logits
        strong, weak, guide = student.ask(inputs).logits, student.logits, teachers[0].logits.detach()
        probabilities = log_probabilities(guide).exp()
        samples = share_below_median(probabilities.max(dim=1).values)
        classes = share_below_median(probabilities.sum(dim=0))
        on_weak = self._divergences(weak, guide, self.temperatures)
        on_strong = self._divergences(strong, strong_guide, self.temperatures[:3])
        pairs = [(log_probabilities(weak, each).exp(), log_probabilities(guide, each).exp())
                 for each in self.temperatures]  # fmt: skip
        return {
            "mlkd_task": batch.over_labels(
                lambda target: cross_entropy(strong.float(), target, reduction="none")
            ).mean(),
            "mlkd_instance": samples * torch.stack(on_weak).sum() + torch.stack([*on_strong, *on_weak[3:]]).sum(),
            "mlkd_class": classes * torch.stack([relation_loss(own.T, other.T) for own, other in pairs]).sum(),
            "mlkd_batch": samples * torch.stack([relation_loss(own, other) for own, other in pairs]).sum(),
        }

    def _divergences(self, own: Tensor, other: Tensor, temperatures: Sequence[float]) -> list[Tensor]:
        if self.standardized:
            own, other = standardize(own), standardize(other)
        return [kd_loss(own, other, temperature=each) for each in temperatures]
