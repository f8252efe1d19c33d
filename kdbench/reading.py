"""Networks as criteria see them: their own taps of one forward pass, or what a teacher said before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.core.ranks import Share
from kdbench.core.taps import TapReader, expand_taps
from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria.base import Criterion


def terms_of(
    criterion: Criterion, student: ModelOutput, teachers: Sequence[ModelOutput], share: Share
) -> dict[str, Tensor]:
    """The criterion's terms of the whole batch, the same on every rank."""
    if not criterion.per_sample:
        return criterion(share.gather_output(student), [share.gather_output(each) for each in teachers], share.batch)
    with share.statistics():
        return {name: share.mean(term) for name, term in criterion(student, teachers, share.own).items()}


def in_float32(output: ModelOutput) -> ModelOutput:
    """The same numbers in float32, whatever precision gave them."""
    features = {name: values.float() for name, values in output.features.items()}
    second = None if output.second is None else in_float32(output.second)
    return output._replace(logits=output.logits.float(), features=features, second=second)


class Reader:
    """One network as the criteria see it: of one forward pass, each gets its own taps, in its own order.

    Args:
        network: What is read.
        taps: Names of taps for each criterion that reads features.
        compile_mode: Of ``torch.compile``; ``None`` does not compile.

    Raises:
        ConfigError: A compiled network is to show features.
    """

    def __init__(self, network: nn.Module, taps: Mapping[str, Sequence[str]], compile_mode: str | None = None) -> None:
        self._own = {criterion: expand_taps(network, names) for criterion, names in taps.items()}
        self.read = TapReader(network, [name for names in self._own.values() for name in names])
        if compile_mode is None:
            return
        if any(self._own.values()):
            raise ConfigError(f"trainer.compile={compile_mode}: the method reads features, which a compiled network "
                              "does not show; use trainer.compile=null")  # fmt: skip
        compiled = torch.compile(network, mode=compile_mode)
        assert isinstance(compiled, nn.Module)
        self.read.network = compiled  # here alone: measured is the network as it is

    def __call__(self, batch: Batch) -> ModelOutput:
        """Logits and all taps of the batch, and of its second view where it has one."""
        output = self.read(batch.inputs)
        return output if batch.second is None else output._replace(second=self.read(batch.second))

    def share(self, criterion: str, output: ModelOutput, ask: Callable[[Tensor], ModelOutput]) -> ModelOutput:
        """What ``criterion`` gets of ``output``, and of what it asks itself by ``ask``."""
        features = {name: output.features[name] for name in self._own.get(criterion, ())}
        second = None if output.second is None else self.share(criterion, output.second, ask)
        return ModelOutput(output.logits, features, lambda inputs: self.share(criterion, ask(inputs), ask), second)


class Recall(Protocol):
    """Answers in place of a teacher, from what that teacher said before.

    Attributes:
        forwards: Samples that the teacher itself was shown so far.
    """

    forwards: int

    def __call__(self, batch: Batch, epoch: int) -> ModelOutput:
        """What the teacher gives for ``batch``, at the taps that the criteria read."""
        ...
