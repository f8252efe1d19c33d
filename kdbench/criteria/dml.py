"""Deep mutual learning: Zhang et al. 2018."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cross_entropy

from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria._functional import kd_loss
from kdbench.criteria._options import check_number
from kdbench.criteria.base import Criterion, Teachers


class DML(Criterion):
    r"""Two networks learn together, each from the labels and from the other's prediction.

    .. math:: L_S = \mathrm{CE}_S + \tau^2 \, \mathrm{KL}_b(p^P \,\|\, p^S), \qquad
        L_P = \mathrm{CE}_P + \tau^2 \, \mathrm{KL}_b(p^S \,\|\, p^P)

    where the other's prediction is a constant. The terms are ``dml`` of the student, and ``peer_task`` and ``peer_dml``
    of its peer: a copy of the network above, trained from its first weights by the same optimiser on the same batches.
    It is part of the checkpoint and of the extra parameters, and is not deployed.

    Args:
        temperature: :math:`\tau > 0`, dimensionless; 1 as published.

    Raises:
        ConfigError: The temperature is not positive.

    Source: Zhang et al. 2018, arXiv:1706.00384, Sec. 3.1.
    Differs from: the released code, which updates the networks in turn, each on a batch of its own; this is the
        synchronous form.
    """

    terms: ClassVar[tuple[str, ...]] = ("dml", "peer_task", "peer_dml")
    teachers: ClassVar[Teachers] = Teachers.PEER

    def __init__(self, *, temperature: float = 1.0) -> None:
        super().__init__()
        check_number("dml.temperature", temperature, above=0)
        self.temperature = temperature

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Copies the network above."""
        super().setup(student, teachers, data)
        assert teachers[0].network is not None
        self.peer = copy.deepcopy(teachers[0].network).requires_grad_(True).train()

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The terms ``dml``, ``peer_task`` and ``peer_dml``, scalars in nats; ``teachers`` are not looked at."""
        logits = self.peer(batch.inputs)
        return {
            "dml": kd_loss(student.logits, logits, temperature=self.temperature),
            "peer_task": batch.over_labels(
                lambda target: cross_entropy(logits.float(), target, reduction="none")
            ).mean(),
            "peer_dml": kd_loss(logits, student.logits, temperature=self.temperature),
        }
