"""What watches one training: the screen, wherever it is, and the loggers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

from kdbench.core.recipe import Recipe
from kdbench.loggers import RunInfo, Sinks, Stored, open_sinks
from kdbench.plan import Node
from kdbench.settings import Settings
from kdbench.store import Entry


class Screen(Protocol):
    """Where the progress of trainings is shown."""

    def step(self, recipe: Recipe, step: int, epoch: int) -> None:
        """A training is at ``step``."""
        ...

    def row(self, recipe: Recipe, row: Mapping[str, float]) -> None:
        """An epoch ended with these numbers."""
        ...

    def note(self, recipe: Recipe, text: str) -> None:
        """Something the user should know."""
        ...


class Watch:
    """Passes what a training says to the screen and the loggers; closes the loggers however it ends.

    Loggers are opened with the first row: a network that another process has finished meanwhile leaves no empty run.
    """

    def __init__(self, node: Node, settings: Settings, screen: Screen) -> None:
        self._node, self._settings, self._screen = node, settings, screen
        self._sinks: Sinks | None = None

    def on_step(self, step: int, epoch: int) -> None:
        """Called after every step."""
        self._screen.step(self._node.recipe, step, epoch)

    def on_epoch(self, row: Mapping[str, float], epoch: int) -> None:
        """Called with each new row of the history, after a resume with the earlier ones too."""
        if self._sinks is None:
            self._sinks = open_sinks(self._settings.loggers, run=run_info(self._node, self._settings))
        self._sinks.log(row, epoch)
        self._screen.row(self._node.recipe, row)

    def on_note(self, text: str) -> None:
        """Something the user should know."""
        self._screen.note(self._node.recipe, text)

    def on_wait(self, who: str) -> None:
        """Another process trains the same network."""
        self.on_note(f"waiting for {who}, which trains the same network")

    def finish(self, entry: Entry) -> None:
        """The network is in the store."""
        if self._sinks is not None:
            _finish(self._sinks, entry, self._settings)
        elif self._settings.loggers:
            replay(self._node, entry, self._settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._sinks is not None:
            self._sinks.finish({}, "done" if kind is None else "failed")


def run_info(node: Node, settings: Settings, *, from_store: bool = False) -> RunInfo:
    """What loggers are told about a network."""
    recipe = node.recipe
    return RunInfo(
        project=settings.project,
        group=settings.group,
        role=node.role,
        name=f"{recipe.chain()}, seed {recipe.seed}",
        config={**recipe.to_dict(), "digest": recipe.digest, "chain": recipe.chain(), "lineage": lineage(recipe)},
        folder=settings.run_dir / "logs" / f"{recipe.name}-{recipe.digest[:8]}",
        from_store=from_store,
    )


def lineage(recipe: Recipe) -> list[str]:
    """Digests of all networks above, nearest first."""
    return [digest for teacher in recipe.teachers for digest in (teacher.digest, *lineage(teacher))]


def replay(node: Node, entry: Entry, settings: Settings) -> None:
    """Shows loggers the history of a network that was found in the store, marked as such."""
    with open_sinks(settings.loggers, run=run_info(node, settings, from_store=True)) as sinks:
        for row in entry.history:
            sinks.log(row, int(row["epoch"]))
        _finish(sinks, entry, settings)


def _finish(sinks: Sinks, entry: Entry, settings: Settings) -> None:
    teachers = [teacher for link in entry.recipe.teachers if (teacher := settings.store.get(link.digest)) is not None]
    sinks.lineage(_stored(entry), [_stored(teacher) for teacher in teachers])
    sinks.finish({**summary(entry), **(gap(entry, teachers[-1]) if teachers else {})})


def _stored(entry: Entry) -> Stored:
    return Stored(entry.recipe.name, entry.digest, entry.path)


def gap(entry: Entry, teacher: Entry) -> dict[str, float]:
    """Teacher minus student, in percentage points, with what a chart puts beside it: ``gap/test/acc`` and the like."""
    found = {"teacher/parameters": float(teacher.metrics["parameters"])}
    for split in ("val", "test"):
        if split in entry.metrics and split in teacher.metrics:
            above, below = teacher.metrics[split]["acc"], entry.metrics[split]["acc"]
            found |= {f"teacher/{split}/acc": above, f"gap/{split}/acc": above - below}
    return found


def summary(entry: Entry) -> dict[str, float]:
    """The final numbers as loggers show them: ``test/acc``, ``val/nll``, ``seconds/total``, ``parameters``."""
    flat: dict[str, Any] = {}
    for key, value in entry.metrics.items():
        flat.update(
            {f"{key}/{name}": number for name, number in value.items()} if isinstance(value, Mapping) else {key: value}
        )
    return {key: value for key, value in flat.items() if isinstance(value, int | float) and not isinstance(value, bool)}
