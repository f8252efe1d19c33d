"""How a teacher's outputs are kept, exactly or not, and what a lossy form costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from kdbench.metrics.fidelity import kl_divergence

Rows = dict[str, Tensor]
_LARGEST = 65504.0  # of float16


class Loss(NamedTuple):
    """What a lossy form changed, at worst or on average over all samples.

    Attributes:
        logit: Largest change of a logit.
        kl: Mean divergence of the kept prediction from the true one at temperature 1, in nats.
    """

    logit: float
    kl: float

    def __str__(self) -> str:
        return f"logits are off by at most {self.logit:.2g}, predictions by {self.kl:.2g} nats on average"


def pack(outputs: Mapping[str, Tensor], *, dtype: str = "float32", top_k: int | None = None) -> Rows:
    r"""Outputs in the form in which they are kept.

    With ``top_k`` the largest logits and their classes are kept, and one more logit for all the others,

    .. math:: z_{\text{rest}} = \log \sum_{c \notin \text{top}} e^{z_c} - \log(C - k)

    so that at temperature 1 kept classes keep their probabilities, and the others share theirs equally.

    Args:
        outputs: ``logits``, `(N, C)`, and features `(N, D)`.
        dtype: ``float32`` leaves everything as it is, also where it is bfloat16; ``float16`` rounds to that.
        top_k: In ``1 .. C - 1``; ``None`` for all.

    Source: marginal smoothing of Shen & Xing 2022, arXiv:2112.01528, Sec. 3.2.
    """
    rows = {name: _rounded(values) if dtype == "float16" else values for name, values in outputs.items()}
    if top_k is None:
        return rows
    logits = outputs["logits"].float()
    top, classes = logits.topk(top_k, dim=1)
    rest = logits.scatter(1, classes, -math.inf).logsumexp(1, keepdim=True) - math.log(logits.shape[1] - top_k)
    kept = {"logits.top": top, "logits.rest": rest}
    del rows["logits"]
    rows |= {name: _rounded(values) if dtype == "float16" else values for name, values in kept.items()}
    return rows | {"logits.classes": classes.to(torch.int16 if logits.shape[1] < 2**15 else torch.int32)}


def unpack_logits(rows: Mapping[str, Tensor], classes: int) -> Tensor:
    """Logits `(B, C)` of rows that :func:`pack` made; float32 where they were rounded."""
    if "logits" in rows:
        return widened(rows["logits"])
    rest = widened(rows["logits.rest"])
    return rest.repeat(1, classes).scatter_(1, rows["logits.classes"].long(), widened(rows["logits.top"]))


def widened(values: Tensor) -> Tensor:
    """float16 as float32, anything else as it is."""
    return values.float() if values.dtype == torch.float16 else values


def loss_of(logits: Tensor, kept: Tensor) -> Loss:
    """How far the kept logits `(N, C)` are from the true ones."""
    true, kept = logits.float(), kept.float()
    divergence = kl_divergence(true.log_softmax(1), kept.log_softmax(1)).double().mean()
    return Loss((true - kept).abs().max().item(), divergence.item())


def _rounded(values: Tensor) -> Tensor:
    return values.float().clamp(-_LARGEST, _LARGEST).half()
