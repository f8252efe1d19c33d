"""What flows between data, networks, criteria and the distiller. Needs torch for annotations only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn


class Mix(NamedTuple):
    """What every sample of a batch was mixed with.

    Attributes:
        target: Class of the partner, `(B,)` int64.
        share: Part of the sample itself that is left, in [0, 1], `(B,)` float32.
    """

    target: Tensor
    share: Tensor


class Batch(NamedTuple):
    """One batch as every network of a step sees it.

    Attributes:
        inputs: For images: pixels in [0, 1], `(B, C, H, W)` float32, not normalised; each network normalises itself.
        target: Class of each sample, `(B,)` int64.
        index: Position of each sample in the full training set, `(B,)` int64; identifies it across epochs.
        second: Another view of the same samples, as ``inputs``; where a criterion asks for it.
        mix: What was mixed into ``inputs``, by mixup or CutMix; ``None`` where every sample is of one class.
    """

    inputs: Tensor
    target: Tensor
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride] (tuple.index is of no use here)
    second: Tensor | None = None
    mix: Mix | None = None

    def rows(self, part: slice | Tensor) -> Batch:
        """These samples of the batch alone."""
        second = None if self.second is None else self.second[part]
        mix = None if self.mix is None else Mix(*(each[part] for each in self.mix))
        return Batch(self.inputs[part], self.target[part], self.index[part], second, mix)

    def over_labels(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        r"""A loss under the label of each sample: :math:`\lambda \ell(y) + (1 - \lambda) \ell(y')` where two are mixed.

        Args:
            loss: From classes, `(B,)` int64, to something per sample, `(B, ...)`.

        Returns:
            `(B, ...)`.
        """
        own = loss(self.target)
        if self.mix is None:
            return own
        share = self.mix.share.view(-1, *[1] * (own.dim() - 1))
        return share * own + (1 - share) * loss(self.mix.target)

    @property
    def main_target(self) -> Tensor:
        """Class that most of each sample is of, `(B,)` int64."""
        return self.target if self.mix is None else self.target.where(self.mix.share >= 0.5, self.mix.target)


def _nobody(inputs: Tensor) -> ModelOutput:
    raise NotImplementedError("no network stands behind this output that could be asked about other inputs")


class ModelOutput(NamedTuple):
    """What one forward pass gave.

    Attributes:
        logits: Unnormalised scores, `(B, C)`.
        features: The activation at each tap that was asked for, by the tap's name.
        ask: Runs the same network on other inputs, in its mode and under the caller's gradient mode: what attacks,
            input gradients and second views need. A teacher's weights stay frozen, and each sample is a query.
        second: The same for the batch's second view, where there is one.
    """

    logits: Tensor
    features: Mapping[str, Tensor]
    ask: Callable[[Tensor], ModelOutput] = _nobody
    second: ModelOutput | None = None

    def rows(self, part: Tensor) -> ModelOutput:
        """What it gave for these samples alone."""
        features = {name: values[part] for name, values in self.features.items()}
        second = None if self.second is None else self.second.rows(part)
        return self._replace(logits=self.logits[part], features=features, second=second)


@dataclass(frozen=True)
class Tap:
    """A named place in a network: a module's path, and whether its output or its input is read."""

    path: str
    io: Literal["output", "input"] = "output"


@dataclass(frozen=True)
class DataSpec:
    """What a network must know about the data.

    Attributes:
        name: The dataset's name.
        num_classes: Number of classes C.
        input_shape: Shape of one sample; `(C, H, W)` for images.
        mean: Per-channel mean of the training pixels in [0, 1].
        std: Per-channel standard deviation of the same.
        class_names: One name per class, or empty.
        train_size: Number of training samples after the split.
        index_size: Number of training samples before the split: every ``Batch.index`` is below it, so memory banks have
            this many rows.
        labels: Class of each training sample by its index, -1 where it is held out or teachers may not be asked about
            it; `(index_size,)` int64. Known once the data are loaded.
    """

    name: str
    num_classes: int
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()
    train_size: int = 0
    index_size: int = 0
    labels: Tensor | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class NetworkSpec:
    """What a criterion may size itself from: found by one dry forward, never listed by hand.

    Attributes:
        name: The network's name.
        num_classes: Width of the logits.
        shapes: Shape of each requested tap without the batch dimension, by the tap's name, in the order asked for.
        head: The classifier, where it is one linear layer; a constant on the teacher's side, of which a criterion may
            keep copies of the weights, as buffers.
        norms: For each tap the BatchNorm that ran last before it, if one of as many channels did: what is known of the
            distribution there.
        network: The network itself, for criteria that train a copy of it.
    """

    name: str
    num_classes: int
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    head: nn.Linear | None = field(default=None, compare=False, repr=False)
    norms: Mapping[str, nn.BatchNorm2d] = field(default_factory=dict, compare=False, repr=False)
    network: nn.Module | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Progress:
    """Where a training stands; schedules and memory banks are functions of this alone.

    Attributes:
        step: Optimiser steps done, counted over the whole training.
        total_steps: Optimiser steps of the whole training.
        steps_per_epoch: Optimiser steps per epoch.
    """

    step: int
    total_steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> float:
        """Epochs done, with fractions."""
        return self.step / self.steps_per_epoch

    @property
    def fraction(self) -> float:
        """Part of the training that is done, in [0, 1]."""
        return self.step / self.total_steps if self.total_steps else 1.0
