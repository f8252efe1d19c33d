"""Adversarial samples that support the decision boundary: Heo et al. 2019."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria._functional import kd_loss, log_probabilities
from kdbench.criteria._options import check_number, check_whole
from kdbench.criteria.base import Criterion

_MARGIN = 1e-4
_RANGE = 2.5  # of normalised inputs


def choose_base(student: Tensor, teacher: Tensor, target: Tensor, *, limit: int) -> Tensor:
    r"""Samples that both networks classify correctly; of too many, those on which they differ most.

    .. math:: \sum_{c \ne y} (p^T_c - p^S_c)^2

    Args:
        student: Logits `(B, C)`.
        teacher: Same shape.
        target: Class of each sample, `(B,)` int64.
        limit: At most so many.

    Returns:
        Positions in the batch, int64.
    """
    right = (student.argmax(1) == target) & (teacher.argmax(1) == target)
    squares = (log_probabilities(teacher).exp() - log_probabilities(student).exp()).square()
    distance = squares.scatter(1, target.unsqueeze(1), 0.0).sum(1)
    order = distance.masked_fill(~right, -1.0).argsort(descending=True, stable=True)
    return order[: min(int(right.sum()), limit)]


def cross_boundary(
    predict: Callable[[Tensor], Tensor], inputs: Tensor, *, base: Tensor, goal: Tensor, steps: int, step: float
) -> Tensor:
    r"""Moves samples over the boundary between their class and another, and stops each one behind it.

    .. math:: x \leftarrow \mathrm{clip}_{\pm 2.5}\Bigl(x + \eta \, (z_b - z_k + 10^{-4}) \,
        \frac{g}{\lVert g \rVert_2}\Bigr), \quad g = \nabla_x (z_k - z_b)

    Args:
        predict: Maps normalised inputs to logits :math:`z`, `(B, C)`.
        inputs: Normalised, `(B, C, H, W)`.
        base: Class :math:`b` of each sample at the start, `(B,)` int64.
        goal: Class :math:`k` to move to, `(B,)` int64.
        steps: At most so many.
        step: :math:`\eta > 0`.

    Returns:
        The same shape.
    """
    for _ in range(steps):
        inputs = inputs.detach().requires_grad_()
        with torch.enable_grad():
            logits = predict(inputs)
            gap = (logits.gather(1, goal[:, None]) - logits.gather(1, base[:, None])).squeeze(1)
            active = logits.argmax(1) == base
            if not active.any():
                break
            (gradient,) = torch.autograd.grad(gap.sum(), inputs)
        direction = gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
        length = step * (_MARGIN - gap.detach()) * active
        inputs = (inputs + length[:, None, None, None] * direction).clamp(-_RANGE, _RANGE)
    return inputs.detach()


class BSS(Criterion):
    r"""The student agrees with the teacher also next to the teacher's decision boundaries.

    .. math:: S = -\tfrac1n \sum_i \sum_c p^T_{ic}(\tau) \log p^S_{ic}(\tau)

    without :math:`\tau^2`, on the batch (``bss_clean``) and on up to ``limit`` of its samples (:func:`choose_base`)
    that were moved over a boundary of the teacher (:func:`cross_boundary`) to a class drawn from the teacher's other
    probabilities (``bss_boundary``). The attack moves inputs normalised as the data are; each of its steps asks the
    teacher. The published weights fall over 80 epochs, in the method's file.

    Args:
        temperature: :math:`\tau > 0`, dimensionless.
        limit: Most samples that are moved in a batch.
        steps: Of the attack, at most.
        step: Of the attack, as a factor on the gap of logits.

    Raises:
        ConfigError: An option is out of range.

    Source: Heo et al. 2019, arXiv:1805.05532, and the released code.
    Differs from: the released code, where one sample is enough; here less than two are none, since BatchNorm cannot
        normalise one.
    """

    terms: ClassVar[tuple[str, ...]] = ("bss_clean", "bss_boundary")
    one_label: ClassVar[bool] = True
    mean: Tensor
    std: Tensor

    def __init__(self, *, temperature: float = 3.0, limit: int = 64, steps: int = 10, step: float = 0.3) -> None:
        super().__init__()
        check_number("bss.temperature", temperature, above=0)
        check_whole("bss.limit", limit, least=2)
        check_whole("bss.steps", steps, least=1)
        check_number("bss.step", step, above=0)
        self.temperature = temperature
        self.limit = limit
        self.steps = steps
        self.step = step

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Keeps the normalisation of the data."""
        super().setup(student, teachers, data)
        self.register_buffer("mean", torch.tensor(data.mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(data.std).reshape(-1, 1, 1), persistent=False)

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The terms ``bss_clean`` and ``bss_boundary``, scalars in nats; the second 0 without samples to move."""
        own, guide = student.logits, teachers[0].logits.detach()
        base = choose_base(own.detach(), guide, batch.target, limit=self.limit)
        boundary = own.new_zeros((), dtype=torch.promote_types(own.dtype, torch.float32))
        if len(base) > 1:
            moved = self._move(teachers[0], guide[base], batch.inputs[base])
            with torch.no_grad():
                answer = teachers[0].ask(moved).logits
            boundary = self._agreement(student.ask(moved).logits, answer)
        return {"bss_clean": self._agreement(own, guide), "bss_boundary": boundary}

    def _agreement(self, own: Tensor, guide: Tensor) -> Tensor:
        return kd_loss(own, guide, temperature=self.temperature, divergence="soft_ce", scale=False)

    def _move(self, teacher: ModelOutput, guide: Tensor, inputs: Tensor) -> Tensor:
        """Pixels behind the teacher's boundary; the range of normalised inputs is wider than that of pixels."""
        first = guide.argmax(1)
        others = log_probabilities(guide.scatter(1, first[:, None], float("-inf"))).exp()
        goal = torch.multinomial(others, 1).squeeze(1)

        def predict(normalized: Tensor) -> Tensor:
            return teacher.ask(normalized * self.std + self.mean).logits.float()

        with torch.autocast(inputs.device.type, enabled=False):
            moved = cross_boundary(predict, (inputs - self.mean) / self.std, base=first, goal=goal, steps=self.steps,
                                   step=self.step)  # fmt: skip
        return moved * self.std + self.mean
