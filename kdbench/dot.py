"""The distillation-oriented trainer: Zhao et al. 2023."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kdbench.core.errors import ConfigError


class DOT(Optimizer):
    r"""SGD that remembers the gradient of distillation longer than that of the labels.

    .. math:: v_\mathrm{task} \leftarrow (\mu - \delta) \, v_\mathrm{task} + g_\mathrm{task} + \omega \theta, \qquad
        v_\mathrm{kd} \leftarrow (\mu + \delta) \, v_\mathrm{kd} + g_\mathrm{kd}, \qquad
        \theta \leftarrow \theta - \eta \, (v_\mathrm{task} + v_\mathrm{kd})

    :math:`g_\mathrm{task}` is the gradient of the weighted term ``task``, :math:`g_\mathrm{kd}` that of all others
    together. With :math:`\delta = 0` it is SGD. Whoever computes the gradients hands the first to :meth:`split`, and
    leaves their sum in ``.grad``.

    A reconstruction: from memory of the paper, without its text or code at hand.

    Args:
        params: What it updates: parameters, or groups of them.
        lr: Learning rate :math:`\eta > 0`.
        momentum: :math:`\mu` in [0, 1).
        delta: :math:`\delta` in :math:`[0, \mu]`, with :math:`\mu + \delta < 1`.
        weight_decay: :math:`\omega \ge 0`.

    Raises:
        ConfigError: An option is out of range.

    Source: Zhao et al. 2023, ICCV, arXiv:2307.08436: the two momenta and the update.
    Differs from: the paper in ways unknown. That weight decay goes with the task, and that :math:`\delta` is 0.075, is
        from memory; the paper's loss weights for it are not known here.
    """

    two_gradients: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.9,
        delta: float = 0.075,
        weight_decay: float = 0.0,
    ) -> None:
        if not (lr > 0 and weight_decay >= 0):
            raise ConfigError(f"lr={lr:g} must be greater than 0, weight_decay={weight_decay:g} at least 0")
        if not (0 <= delta <= momentum and momentum + delta < 1):
            raise ConfigError(f"momentum={momentum:g}, delta={delta:g}: delta must be in [0, momentum], and their sum "
                              "below 1")  # fmt: skip
        super().__init__(params, {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay})
        self._task: Mapping[nn.Parameter, Tensor] = {}

    def split(self, task: Mapping[nn.Parameter, Tensor]) -> None:
        """Takes the part of the next step's gradients that is of the task; of who is left out it is zero."""
        self._task = task

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update, after ``closure`` has computed both gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        self._task = {}
        return loss

    def _update(self, parameter: nn.Parameter, group: Mapping[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        task = self._task.get(parameter, torch.zeros_like(gradient))
        both = {"task": (task.add(parameter, alpha=group["weight_decay"]), -group["delta"]),
                "distillation": (gradient - task, group["delta"])}  # fmt: skip
        for name, (part, shift) in both.items():
            velocity = state.setdefault(name, torch.zeros_like(parameter))
            velocity.mul_(group["momentum"] + shift).add_(part)
            parameter.sub_(velocity, alpha=group["lr"])
