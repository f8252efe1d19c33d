"""The numbers of every result table, in one pass over the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from kdbench.core.types import Batch, DataSpec
from kdbench.metrics.base import Evaluation, device_of, evaluating, nothing_to_evaluate, predict
from kdbench.metrics.fidelity import agreement, kl_divergence, mean_log_probabilities

# Rank 0 of a training on several devices measures alone: it must not wait for what the others counted.
_ALONE: Mapping[str, Any] = {"sync_on_compute": False}
_PERCENT = ("acc", "acc5", "agreement")


def _label_metrics(classes: int) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {
        "acc": MulticlassAccuracy(classes, average="micro", **_ALONE),
        "ece": MulticlassCalibrationError(classes, n_bins=15, norm="l1", **_ALONE),
    }
    if classes > 5:
        metrics["acc5"] = MulticlassAccuracy(classes, average="micro", top_k=5, **_ALONE)
    return metrics


def _per_sample(logits: Tensor, target: Tensor, teacher_logits: Sequence[Tensor]) -> dict[str, Tensor]:
    log_q = logits.log_softmax(dim=-1)
    values = {"nll": nn.functional.nll_loss(log_q, target, reduction="none")}
    if teacher_logits:
        log_p = mean_log_probabilities(teacher_logits)
        values |= {"agreement": agreement(log_q, log_p), "kl": kl_divergence(log_p, log_q)}
    return values


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    loader: Iterable[Batch],
    *,
    teachers: Sequence[nn.Module] = (),
    teacher_logits: Sequence[Tensor] = (),
    device: torch.device,
    autocast: torch.dtype | None = None,
) -> dict[str, float]:
    """Measures a network in eval mode, and leaves it and its teachers in the modes they were in.

    Args:
        network: Maps inputs to logits `(B, C)`; on ``device``.
        loader: The samples to measure on, in any order.
        teachers: The networks that taught it, on ``device``.
        teacher_logits: In place of further teachers, their logits on all samples in the loader's order, `(N, C)`.
        device: Where to compute.
        autocast: Precision of the forward passes; ``None`` for that of the weights.

    Returns:
        ``acc`` and, for more than 5 classes, ``acc5``: top-1 and top-5 accuracy in percent. ``nll``: mean negative
        log-likelihood in nats. ``ece``: expected calibration error over 15 equal bins, in [0, 1]. With teachers also
        ``agreement``: samples in percent where the preferred class is that of the teachers' averaged prediction;
        ``kl``: mean divergence of the student from that prediction at temperature 1, in nats.

    Raises:
        DataError: The loader yields nothing.
    """
    by_label: dict[str, Metric] = {}
    means: dict[str, Metric] = {}
    seen = 0
    with evaluating(network, *teachers):
        for batch in loader:
            inputs, target = batch.inputs.to(device), batch.target.to(device)
            logits = predict(network, inputs, autocast)
            theirs = [predict(teacher, inputs, autocast) for teacher in teachers]
            theirs += [known[seen : seen + len(target)].to(device).float() for known in teacher_logits]
            seen += len(target)
            values = _per_sample(logits, target, theirs)
            if not by_label:
                by_label = {name: metric.to(device) for name, metric in _label_metrics(logits.shape[-1]).items()}
                # A network that has diverged has a NaN loss; dropping such samples, the default, would hide it.
                means = {name: MeanMetric(nan_strategy="disable", **_ALONE).to(device) for name in values}
            # Probabilities: torchmetrics takes logits that happen to lie in [0, 1] for probabilities.
            probabilities = logits.softmax(dim=-1)
            for metric in by_label.values():
                metric.update(probabilities, target)
            for name, value in values.items():
                means[name].update(value)
    if not by_label:
        raise nothing_to_evaluate()
    results = {name: metric.compute().item() for name, metric in (by_label | means).items()}
    return {name: 100 * value if name in _PERCENT else value for name, value in results.items()}


class Accuracy(Evaluation):
    """The numbers of every result table; see :func:`evaluate`."""

    headline = "nll"

    def __call__(
        self,
        network: nn.Module,
        loader: Iterable[Batch],
        teachers: Sequence[nn.Module],
        data: DataSpec,
        *others: Iterable[Batch],
    ) -> dict[str, Any]:
        """What :func:`evaluate` returns, on the network's device and in the precision of its weights."""
        return evaluate(network, loader, teachers=teachers, device=device_of(network))
