"""Small recipes on the bundled digits, for tests that train."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdbench.config.compose import Composer
from kdbench.config.jobs import make_jobs
from kdbench.config.recipes import ChainBuilder
from kdbench.core.recipe import Recipe
from kdbench.settings import Settings
from kdbench.store import Store

SHORT = ("trainer.max_epochs=2", "trainer.limit_train_batches=4", "trainer.batch_size=32")


def recipes(*overrides: str, outputs: Path) -> list[Recipe]:
    """The networks of one job, from the teacher to the student."""
    (job,) = make_jobs(Composer(), [*SHORT, *overrides])
    builder = ChainBuilder(Store(outputs / "store"), lambda *_: None)
    return [link.recipe for link in builder.build(job).links]


def settings(outputs: Path, **changes: Any) -> Settings:
    """Settings with one thread and a checkpoint at every step."""
    plain = Settings(outputs=outputs, data_dir=outputs, run_dir=outputs / "runs" / "test", checkpoint_every=0.0)
    return replace(plain, **changes)


class Quiet:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.rows: list[dict[str, float]] = []
        self.notes: list[str] = []

    def on_step(self, step: int, epoch: int) -> None:
        self.steps.append(step)

    def on_epoch(self, row: Mapping[str, float], epoch: int) -> None:
        self.rows.append(dict(row))

    def on_note(self, text: str) -> None:
        self.notes.append(text)
