"""What a criterion is: the mathematics of a loss as a module that returns named, unweighted terms."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import Enum
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec, Progress


class Teachers(Enum):
    """How many teachers a criterion can learn from."""

    NONE = "none"
    ONE = "one"
    ANY = "one or more"
    PEER = "one that learns together with the student, and is never asked as a teacher"


class Parts(NamedTuple):
    """What takes the place of parts of a student, for good.

    Attributes:
        head: Its classifier.
        projector: What stands before its global average pooling; nothing if ``None``.
    """

    head: nn.Linear
    projector: nn.Module | None = None


class Criterion(nn.Module):
    """Base of every criterion.

    A subclass sets ``terms``, implements :meth:`forward`, and creates trainable parts (connectors, embeddings, on
    either side) in :meth:`setup`, from shapes and never from lists of channels. Being submodules, they reach the
    optimiser and the checkpoint by themselves. Memory banks are buffers.

    Attributes:
        version: Bumped whenever the numbers change; part of every recipe's digest.
        terms: Names of the loss terms that :meth:`forward` returns.
        teachers: How many teachers it can learn from.
        per_sample: Whether each term is a mean over samples of what a sample gives alone. On several devices such a
            criterion sees the rows of one device; any other sees the whole batch on all, features gathered, which is
            right in every case but costs memory and time where features are large.
        deploys: Whether it changes the network that is trained and deployed; it then has :meth:`parts`.
        one_label: Whether each sample must be of one class, so that mixup and CutMix are refused; whoever reads labels
            otherwise does so by :meth:`Batch.over_labels`.
        asks_beyond_images: Whether it asks teachers about inputs that are no views of the batch's images, such as
            attacked ones: a budget counts images, so that it cannot be kept to.
        two_views: Whether it compares two views of each sample: outputs then have a ``second``.
    """

    version: ClassVar[int] = 1
    terms: ClassVar[tuple[str, ...]]
    teachers: ClassVar[Teachers] = Teachers.ONE
    per_sample: ClassVar[bool] = False
    deploys: ClassVar[bool] = False
    one_label: ClassVar[bool] = False
    asks_beyond_images: bool = False
    two_views: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()  # nn.Module's own takes any argument, and a misspelt option would go unnoticed

    def parts(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> Parts:
        """What the student is given before :meth:`setup`, which sees it with these parts.

        When a trained student is loaded from the store, the same is built from networks without trained weights, and
        its own weights follow.

        Raises:
            ConfigError: They cannot be made for this pair; the message says why.
        """
        raise NotImplementedError

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Checks that the mathematics fits these networks, and creates trainable parts.

        Runs once, before any training starts, under a generator of its own.

        Args:
            student: Shapes of the student's taps.
            teachers: The same for each teacher.
            data: Classes and number of training samples.

        Raises:
            ConfigError: The criterion cannot serve this pair; the message says why.
        """
        if self.teachers is not Teachers.NONE and not teachers:
            raise ConfigError(f"{type(self).__name__} needs a teacher")
        if self.teachers in (Teachers.ONE, Teachers.PEER) and len(teachers) > 1:
            raise ConfigError(f"{type(self).__name__} learns from one teacher, here are {len(teachers)}")
        for teacher in teachers if self.teachers is not Teachers.NONE else ():
            if teacher.num_classes != student.num_classes:
                raise ConfigError(
                    f"{type(self).__name__}: teacher {teacher.name} has {teacher.num_classes} classes, "
                    f"student {student.name} has {student.num_classes}; they must be the same"
                )

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The terms, each a scalar, unweighted, in float32.

        Args:
            student: Logits and taps of the network being trained, with gradient.
            teachers: The same of each teacher, constant.
            batch: What all of them saw.
        """
        raise NotImplementedError

    def enter_phase(self, terms: Collection[str]) -> None:
        """Called when a phase of the training begins.

        Args:
            terms: Those of ``self.terms`` that count in it; :meth:`forward` may leave the others out, and what only
                they train is to be frozen. Without any, all of it is frozen and :meth:`forward` is not called.
        """

    def after_step(self, progress: Progress) -> None:
        """Called after each optimiser step: averages, memory banks, schedules of its own."""
