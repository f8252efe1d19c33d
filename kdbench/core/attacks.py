"""Adversarial perturbations in the maximum norm, on pixels in [0, 1]: what evaluations and criteria share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

Predict = Callable[[Tensor], Tensor]


def _ascent(predict: Predict, inputs: Tensor, target: Tensor) -> Tensor:
    """Sign of the input gradient of each sample's cross-entropy; leaves no gradient in a network."""
    inputs = inputs.detach().requires_grad_()
    with torch.enable_grad():
        loss = cross_entropy(predict(inputs), target, reduction="sum")
    return torch.autograd.grad(loss, inputs)[0].sign()


def fgsm(predict: Predict, inputs: Tensor, target: Tensor, *, epsilon: float) -> Tensor:
    r"""The fast gradient sign method.

    .. math:: x' = \mathrm{clip}_{[0,1]}\bigl(x + \epsilon \, \mathrm{sign} \, \nabla_x \mathrm{CE}(f(x), y)\bigr)

    Args:
        predict: Maps pixels to logits `(B, C)`, in float32 or wider.
        inputs: Pixels in [0, 1], `(B, C, H, W)`.
        target: Class of each sample, `(B,)` int64.
        epsilon: Radius in the maximum norm, in units of the full range of a pixel.

    Returns:
        The attacked inputs, of the same shape.

    Source: Goodfellow et al. 2015, arXiv:1412.6572, Sec. 4.
    """
    return (inputs + epsilon * _ascent(predict, inputs, target)).clamp(0, 1)


def pgd(
    predict: Predict, inputs: Tensor, target: Tensor, *, epsilon: float, step: float, steps: int, start: Tensor
) -> Tensor:
    r"""Projected gradient ascent on the cross-entropy; the point after the last step.

    .. math:: x_0 = x + s, \qquad x_{k+1} = \Pi_{[0,1]} \, \Pi_{\|x' - x\|_\infty \le \epsilon}
        \bigl(x_k + \eta \, \mathrm{sign} \, \nabla \mathrm{CE}(f(x_k), y)\bigr)

    Args:
        predict: Maps pixels to logits `(B, C)`, in float32 or wider.
        inputs: Pixels in [0, 1], `(B, C, H, W)`.
        target: Class of each sample, `(B,)` int64.
        epsilon: Radius in the maximum norm, in units of the full range of a pixel.
        step: Length :math:`\eta` of a step, same unit.
        steps: Number of steps, at least 1.
        start: Offset :math:`s` of the first point, of the shape of ``inputs``, within the radius.

    Returns:
        The attacked inputs, of the same shape.

    Source: Madry et al. 2018, arXiv:1706.06083, Sec. 2.1.
    Differs from: Madry's released code, which clips the first point to [0, 1] as well; KDIGA's (arXiv:2110.12072)
        does not.
    """
    point = inputs + start
    for _ in range(steps):
        point = point + step * _ascent(predict, point, target)
        point = (inputs + (point - inputs).clamp(-epsilon, epsilon)).clamp(0, 1)
    return point
