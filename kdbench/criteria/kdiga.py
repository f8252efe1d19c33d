"""Alignment of input gradients: Shao et al. 2021."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria._options import check_choice, check_number, check_whole
from kdbench.criteria.ard import attack_student
from kdbench.criteria.base import Criterion

_AT = ("clean", "noise", "adversarial")


def input_gradient(
    ask: Callable[[Tensor], ModelOutput], inputs: Tensor, target: Tensor, *, create_graph: bool
) -> Tensor:
    r"""Gradient :math:`\nabla_x \tfrac1B \sum_i \mathrm{CE}(f(x_i), y_i)` of the batch's mean loss.

    In full precision, and with the attention kernel that has a second derivative.

    Args:
        ask: The network.
        inputs: `(B, C, H, W)`.
        target: Class of each sample, `(B,)` int64.
        create_graph: Whether the result can be differentiated by the network's weights.

    Returns:
        `(B, C, H, W)`, in nats per unit of a pixel, divided by B.
    """
    inputs = inputs.detach().requires_grad_()
    full = torch.autocast(inputs.device.type, enabled=False)
    with torch.enable_grad(), full, sdpa_kernel(SDPBackend.MATH):
        loss = cross_entropy(ask(inputs).logits, target)
        return torch.autograd.grad(loss, inputs, create_graph=create_graph)[0]


NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "l2_batch": lambda d: d.norm(),
    "l2_per_sample": lambda d: d.flatten(1).norm(dim=1).mean(),
    "sq": lambda d: d.square().sum(),
}


class KDIGA(Criterion):
    r"""The student's loss leans on each pixel as its teacher's does, so that robustness is handed down.

    .. math:: \tfrac1B \lVert G^S - G^T \rVert_2, \qquad G = \nabla_x \tfrac1B \sum_i \mathrm{CE}(f(x_i), y_i)

    with one norm over all :math:`B \cdot C \cdot H \cdot W` entries. The update is of second order; both networks are
    run once more for it, the student in train mode, as in the released code. Its weight holds for one batch size
    only: a batch repeated r times divides the term by :math:`r^{3/2}`.

    Args:
        norm: ``l2_batch`` as above; ``l2_per_sample``, the mean length of a sample's difference; ``sq``, the square of
            the first. All are divided by B.
        at: Where gradients are compared: ``clean`` inputs; ``noise``, moved uniformly in the box and not clipped;
            ``adversarial``, moved by :func:`~kdbench.criteria.ard.attack_student`.
        epsilon: Radius of the box, in 1/255 of the full range of a pixel; of no use at ``clean``.
        steps: Of the attack.

    Raises:
        ConfigError: An option has a value that does not exist or is out of range.

    Source: Shao et al. 2021, arXiv:2110.12072, and the released code.
    Differs from: the released code, whose noisy variant feeds the noise to the other terms as well.
    """

    terms: ClassVar[tuple[str, ...]] = ("iga",)
    one_label: ClassVar[bool] = True

    def __init__(self, *, norm: str = "l2_batch", at: str = "clean", epsilon: float = 8.0, steps: int = 10) -> None:
        super().__init__()
        check_choice("kdiga.norm", norm, NORMS)
        check_choice("kdiga.at", at, _AT)
        check_number("kdiga.epsilon", epsilon, above=0, below=256)
        check_whole("kdiga.steps", steps, least=1)
        self.norm = norm
        self.at = at
        self.epsilon = epsilon
        self.steps = steps

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The term ``iga``, a scalar in nats per unit of a pixel."""
        inputs = self._where(student, batch)
        own = input_gradient(student.ask, inputs, batch.target, create_graph=True)
        other = input_gradient(teachers[0].ask, inputs, batch.target, create_graph=False)
        return {"iga": NORMS[self.norm](own - other) / len(inputs)}

    def _where(self, student: ModelOutput, batch: Batch) -> Tensor:
        if self.at == "adversarial":
            return attack_student(student, batch, epsilon=self.epsilon, steps=self.steps)
        if self.at == "noise":
            return batch.inputs + self.epsilon / 255 * (2 * torch.rand_like(batch.inputs) - 1)
        return batch.inputs
