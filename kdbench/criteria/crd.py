"""Contrastive representation distillation: Tian et al. 2020."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec, Progress
from kdbench.criteria._features import FeatureCriterion, full_precision, paired, paired_shapes, unit
from kdbench.criteria._options import check_choice, check_number

_POSITIVES = ("exact", "relaxed")
_EPSILON = 1e-7


def draw_samples(mask: Tensor, count: int, *, replacement: bool) -> Tensor:
    """Positions of ``count`` samples for each row of ``mask``, uniformly among those that it allows.

    Args:
        mask: `(B, N)` bool.
        count: How many.
        replacement: Whether one may be drawn twice.

    Returns:
        `(B, count)` int64.
    """
    return torch.multinomial(mask.float(), count, replacement=replacement)


@full_precision
def contrast(anchors: Tensor, bank: Tensor, *, rows: Tensor, temperature: float) -> Tensor:
    r"""Scores :math:`\langle M_j, v_i \rangle / \tau` of each anchor with its own rows of the bank.

    All N rows are scored and the wanted ones picked: a matrix product, where gathering the rows themselves would copy
    `B * (K + 1) * D` numbers.

    Args:
        anchors: :math:`v`, `(B, D)`.
        bank: :math:`M`, `(N, D)`.
        rows: `(B, K + 1)` int64, in [0, N).
        temperature: :math:`\tau > 0`.

    Returns:
        `(B, K + 1)`.
    """
    return (anchors @ bank.T).gather(1, rows) / temperature


@full_precision
def nce_loss(scores: Tensor, log_partition: Tensor, *, samples: int) -> Tensor:
    r"""Noise-contrastive estimation of one positive against K negatives.

    .. math:: -\tfrac1B \sum_i \Bigl[\log \frac{P_{i0}}{P_{i0} + K/N + \epsilon} +
        \sum_{j=1}^{K} \log \frac{K/N}{P_{ij} + K/N + \epsilon}\Bigr], \quad P = e^s / Z, \; \epsilon = 10^{-7}

    Args:
        scores: :math:`s`, `(B, K + 1)`, the positive first.
        log_partition: :math:`\log Z`, a scalar.
        samples: N, the number of training samples.

    Returns:
        Scalar in nats, summed over negatives, averaged over the batch; positive.
    """
    noise = (scores.shape[1] - 1) / samples
    log_odds = scores - log_partition - math.log(noise + _EPSILON)  # log of P / (K/N + epsilon)
    positive = -F.softplus(-log_odds[:, 0])
    negatives = math.log(noise / (noise + _EPSILON)) - F.softplus(log_odds[:, 1:])
    return -(positive + negatives.sum(dim=1)).mean()


class CRD(FeatureCriterion):
    r"""Embeddings of a sample in both networks are told from those of samples of other classes.

    .. math:: L = L_\mathrm{NCE}(\langle M^T_j, v^S_i \rangle / \tau) + L_\mathrm{NCE}(\langle M^S_j, v^T_i \rangle /
        \tau), \quad v = \frac{W g + w}{\lVert W g + w \rVert_2}

    Both banks hold one embedding of every training sample, at its index; after a step the batch's own rows become
    :math:`M_i \leftarrow \mathrm{unit}(m M_i + (1 - m) v_i)`. Each anchor meets the other network's bank at one
    positive and K negatives. The first batch fixes the constants :math:`Z = N \cdot \mathrm{mean}(e^s)`. Banks and
    constants are part of the checkpoint.

    Args:
        dim: Width D of the embeddings.
        negatives: K, of other classes than the anchor's.
        temperature: :math:`\tau > 0`, dimensionless.
        momentum: :math:`m` in (0, 1).
        positive: ``exact``, the anchor itself; ``relaxed``, any training sample of its class.

    Raises:
        ConfigError: An option has a value that does not exist, or is out of range.

    Source: Tian et al. 2020, arXiv:1910.10699, Sec. 3; constants of the released code.
    Differs from: the released code, which decides class by class whether negatives are drawn with replacement: here it
        is so for all as soon as K exceeds what the smallest set of other classes holds.
    """

    terms: ClassVar[tuple[str, ...]] = ("crd",)
    rank: ClassVar[int | None] = 1
    single: ClassVar[bool] = True
    one_label: ClassVar[bool] = True
    labels: Tensor
    student_bank: Tensor
    teacher_bank: Tensor
    partitions: Tensor

    def __init__(
        self,
        *,
        dim: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        positive: str = "exact",
    ) -> None:
        super().__init__()
        check_number("crd.dim", dim, above=0)
        check_number("crd.negatives", negatives, above=0)
        check_number("crd.temperature", temperature, above=0)
        check_number("crd.momentum", momentum, above=0, below=1)
        check_choice("crd.positive", positive, _POSITIVES)
        self.dim = dim
        self.negatives = negatives
        self.temperature = temperature
        self.momentum = momentum
        self.positive = positive
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Creates the embeddings and the banks.

        Raises:
            ConfigError: Not one tap of each side, or it carries no vector; the data give no labels, or one class.
        """
        super().setup(student, teachers, data)
        if data.labels is None:
            raise ConfigError(f"CRD draws negatives by class, but the labels of {data.name} are not known")
        sizes = data.labels[data.labels >= 0].bincount()
        self.samples = int(sizes.sum())
        pool = self.samples - int(sizes.max())
        if not pool:
            raise ConfigError(f"CRD draws negatives of other classes, but {data.name} has one class")
        self.replacement = self.negatives > pool
        (((own,), (other,)),) = paired_shapes(student, teachers[0])
        self.student_embedding = nn.Linear(own, self.dim)
        self.teacher_embedding = nn.Linear(other, self.dim)
        bound = math.sqrt(3.0 / self.dim)  # rows of length about one
        for name in ("student_bank", "teacher_bank"):
            self.register_buffer(name, torch.empty(data.index_size, self.dim).uniform_(-bound, bound))
        self.register_buffer("partitions", torch.zeros(2))  # zero until the first batch
        self.register_buffer("labels", data.labels.clone(), persistent=False)

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``crd``, a scalar in nats: the student's side plus the teacher's."""
        ((own, other),) = paired(student, teachers[0])
        own, other = unit(self.student_embedding(own)), unit(self.teacher_embedding(other))
        rows = self._draw_rows(batch.index)
        scores = [
            contrast(anchors, bank, rows=rows, temperature=self.temperature)
            for anchors, bank in ((own, self.teacher_bank), (other, self.student_bank))
        ]
        with torch.no_grad():
            first = torch.stack([side.exp().mean() * self.samples for side in scores])
            self.partitions.copy_(torch.where(self.partitions > 0, self.partitions, first))
            log_partitions = self.partitions.log()
        self._seen.append((batch.index, own.detach(), other.detach()))
        losses = [nce_loss(*side, samples=self.samples) for side in zip(scores, log_partitions, strict=True)]
        return {"crd": torch.stack(losses).sum()}

    def _draw_rows(self, index: Tensor) -> Tensor:
        label = self.labels[index].unsqueeze(1)
        others = (self.labels != label) & (self.labels >= 0)
        negatives = draw_samples(others, self.negatives, replacement=self.replacement)
        if self.positive == "exact":
            return torch.cat([index.unsqueeze(1), negatives], dim=1)
        return torch.cat([draw_samples(self.labels == label, 1, replacement=False), negatives], dim=1)

    def after_step(self, progress: Progress) -> None:
        """Moves the banks' rows of the samples that were seen towards their embeddings."""
        for index, *embeddings in self._seen:
            for bank, new in zip((self.student_bank, self.teacher_bank), embeddings, strict=True):
                bank[index] = unit(bank[index].lerp(new, 1.0 - self.momentum))
        self._seen.clear()
