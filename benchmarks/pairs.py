"""The pairs of networks that are measured, and their recipes through kdbench's own front door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kdbench.config.compose import Composer
from kdbench.config.jobs import make_jobs
from kdbench.config.recipes import ChainBuilder
from kdbench.core.recipe import Recipe
from kdbench.runner import Trainer
from kdbench.settings import Settings
from kdbench.store import Store


@dataclass(frozen=True)
class Pair:
    """A teacher, a student and their batch size, on random 32x32 colour images."""

    teacher: str
    student: str
    batch_size: int

    def __str__(self) -> str:
        return f"{self.teacher} -> {self.student}, B {self.batch_size}"


PAIRS = (
    Pair("plain10", "plain2", 128),
    Pair("resnet32x4", "resnet8x4", 64),
    Pair("resnet56", "resnet20", 64),
    Pair("resnet20", "resnet8", 128),
)
TINY = (Pair("plain4", "plain2", 8),)


class Noted:
    """An observer that does nothing but what is told to it."""

    def on_step(self, step: int, epoch: int) -> None:
        """See :class:`kdbench.fit.Observer`."""

    def on_epoch(self, row: Mapping[str, float], epoch: int) -> None:
        """See :class:`kdbench.fit.Observer`."""

    def on_note(self, text: str) -> None:
        """See :class:`kdbench.fit.Observer`."""


def make_settings(outputs: Path, threads: int, *, cache: bool = False) -> Settings:
    """Settings as a command has them; no state is saved while the clock runs."""
    return Settings(outputs=outputs, data_dir=outputs, run_dir=outputs, threads=threads, checkpoint_every=1e9,
                    accelerator="cpu", cache=cache)  # fmt: skip


def chain_of(pair: Pair, outputs: Path, *overrides: str, steps: int, images: int | None = None) -> list[Recipe]:
    """The recipes of teacher and student: one epoch of ``steps`` steps, with the augmentation of CIFAR studies.

    The teacher is trained for one step: its weights do not change what it costs.
    """
    images = images or pair.batch_size * steps
    command = [
        "dataset=fake", f"dataset.sizes.train={images}", "dataset.sizes.test=64", "dataset.val_fraction=0.0",
        "optim=steps", "optim.schedule.milestones=[]", "dataset.augment=crop_flip", f"teacher={pair.teacher}",
        f"student={pair.student}", "assistants=[]", "trainer.max_epochs=1", f"trainer.batch_size={pair.batch_size}",
        f"trainer.limit_train_batches={steps}", "hops.teacher.trainer.limit_train_batches=1",
        "hops.teacher.trainer.precision=32-true", *overrides,
    ]  # fmt: skip
    (job,) = make_jobs(Composer(), command)
    return [link.recipe for link in ChainBuilder(Store(outputs / "store"), lambda *_: None).build(job).links]


def with_teacher(pair: Pair, trainer: Trainer, *overrides: str, steps: int, images: int | None = None) -> Recipe:
    """The student's recipe, with its teacher in the store."""
    teacher, student = chain_of(pair, trainer.settings.outputs, *overrides, steps=steps, images=images)
    trainer.make(teacher, Noted())
    return student
