"""What a linear classifier can read from a network's features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from kdbench.core.errors import ConfigError, DataError
from kdbench.core.taps import TapReader, resolve_tap
from kdbench.core.types import Batch, DataSpec
from kdbench.metrics.base import Evaluation, Samples, device_of, evaluating, nothing_to_evaluate


def ridge(features: Tensor, target: Tensor, *, penalty: float) -> tuple[Tensor, Tensor]:
    r"""The affine map from standardised features to one-hot targets with the least penalised squares.

    .. math:: \min_{W, b} \tfrac1N \sum_i \| W \hat x_i + b - e_{y_i} \|^2 + \lambda \| W \|^2,
        \qquad \hat x = (x - \mu) / \sigma

    A feature that never changes gets no weight.

    Args:
        features: `(N, D)` float64.
        target: Classes, `(N,)` int64.
        penalty: :math:`\lambda > 0`, dimensionless.

    Returns:
        Weight `(C, D)` and bias `(C,)` for features as they are, not standardised; C is the largest class plus one.
    """
    mean, scale = features.mean(dim=0), features.std(dim=0, correction=0)
    scale = torch.where(scale > 0, scale, torch.inf)
    standard = (features - mean) / scale
    wanted = one_hot(target).to(features)
    centre = wanted.mean(dim=0)
    gram = standard.T @ standard / len(standard)
    gram.diagonal().add_(penalty)
    weight = torch.linalg.solve(gram, standard.T @ (wanted - centre) / len(standard))
    weight = (weight / scale[:, None]).T
    return weight, centre - weight @ mean


class LinearProbe(Evaluation):
    """Accuracy of a ridge classifier on frozen features, fitted on training images without augmentation.

    Source: Alain and Bengio 2016, arXiv:1610.01644, Sec. 3.
    Differs from: ICD's transfer protocol (arXiv:2407.11802), which trains a softmax head by SGD for 120 epochs and lets
        BatchNorm adapt to the new data; this one has a closed form, and nothing in the network moves.

    Args:
        dataset: Where to fit and to measure: another dataset's training and test images, brought to the network's size
            and channels; ``None`` for the network's own, with the labels it was trained on, measured on the split that
            is evaluated.
        root: The folder of the other dataset's files; ``None`` for the usual places.
        tap: The features, flattened.
        penalty: Of the squared weights of standardised features.

    Raises:
        ConfigError: The penalty is not above 0, or there is a root without a dataset.
    """

    headline = "acc"

    def __init__(
        self, *, dataset: str | None = None, root: str | None = None, tap: str = "pooled", penalty: float = 0.001
    ) -> None:
        if penalty <= 0:
            raise ConfigError(f"eval.linear_probe.penalty={penalty}: must be above 0")
        self.tap, self.penalty = tap, penalty
        if root is not None and dataset is None:
            raise ConfigError(f"eval.linear_probe.root={root}: whose files? name them with eval.linear_probe.dataset")
        self.also_reads = (
            Samples("train", dataset, root),
            *([] if dataset is None else [Samples("test", dataset, root)]),
        )

    def check(self, network: nn.Module, teachers: Sequence[nn.Module], data: DataSpec) -> None:
        """Refuses a tap that the network does not have."""
        try:
            resolve_tap(network, self.tap)
        except ConfigError as error:
            raise ConfigError(f"eval.linear_probe.tap: {problem}" for problem in error.problems) from error

    def __call__(
        self,
        network: nn.Module,
        loader: Iterable[Batch],
        teachers: Sequence[nn.Module],
        data: DataSpec,
        *others: Iterable[Batch],
    ) -> dict[str, Any]:
        """``acc`` and ``train_acc`` in percent, numbers of ``samples``, ``train_samples``, ``features``, ``classes``.

        Raises:
            DataError: A loader yields nothing, or all training samples are of one class.
        """
        train, *test = others
        features, target = self._read(network, train)
        if target.unique().numel() < 2:
            raise DataError("eval=[linear_probe]: all training samples are of one class; choose other data")
        weight, bias = ridge(features, target, penalty=self.penalty)

        def accuracy(features: Tensor, target: Tensor) -> float:
            return 100 * ((features @ weight.T + bias).argmax(dim=-1) == target).double().mean().item()

        measured = self._read(network, test[0] if test else loader)
        return {
            "acc": accuracy(*measured),
            "train_acc": accuracy(features, target),
            "samples": len(measured[1]),
            "train_samples": len(target),
            "features": features.shape[1],
            "classes": len(bias),
        }

    @torch.no_grad()
    def _read(self, network: nn.Module, loader: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """Features `(N, D)` float64 and classes `(N,)`, on the network's device."""
        device, features, targets = device_of(network), [], []
        reader = TapReader(network, [self.tap])
        try:
            with evaluating(network):
                for batch in loader:
                    features.append(reader(batch.inputs.to(device)).features[self.tap].flatten(1).double())
                    targets.append(batch.target.to(device))
        finally:
            reader.close()
        if not targets:
            raise nothing_to_evaluate()
        return torch.cat(features), torch.cat(targets)
