"""A search that survives being killed: Optuna's TPE over a journal on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from kdbench.config.space import Dimension
from kdbench.core.recipe import digest_of

JOURNAL = "search.journal"


@dataclass(frozen=True)
class Trial:
    """One point of the space.

    Attributes:
        number: Counted from 0.
        overrides: What it sets.
        value: What came of it; nothing if its training failed or has not ended.
    """

    number: int
    overrides: tuple[str, ...]
    value: float | None = None


class Search:
    """Asks for trials and is told what came of them; everything that it knows is on disk.

    A trial is a function of the seed and of what was known when it was asked for, so a search that was killed goes on
    as if it had not been.

    Args:
        folder: Where its journal is, or will be.
        space: What is searched; the same as when the journal was begun.
        seed: Of the draws.
    """

    def __init__(self, folder: Path, space: Sequence[Dimension], *, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        self._space = space
        self._seed = seed
        self._distributions = {dimension.key: _distribution(dimension) for dimension in space}
        storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        self._study = optuna.create_study(storage=storage, study_name="search", direction="maximize",
                                          load_if_exists=True)  # fmt: skip

    def begun(self) -> list[Trial]:
        """Trials of which nobody has told what came of them: of a search that was killed."""
        return [self._plain(trial) for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]

    def ask(self) -> Trial:
        """A new trial."""
        number = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = TPESampler(seed=int(digest_of([self._seed, number])[:8], 16))
        return self._plain(self._study.ask(self._distributions))

    def tell(self, trial: Trial, value: float | None) -> None:
        """What came of a trial, the higher the better; nothing if it failed."""
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        self._study.tell(trial.number, value, state=state, skip_if_finished=True)

    @property
    def trials(self) -> list[Trial]:
        """All of them, in their order."""
        return [self._plain(trial) for trial in self._study.get_trials(deepcopy=False)]

    @property
    def ranking(self) -> list[Trial]:
        """Those with a value, the best first; of equal ones the first."""
        done = [trial for trial in self.trials if trial.value is not None]
        return sorted(done, key=lambda trial: -(trial.value or 0.0))

    def _plain(self, trial: FrozenTrial | optuna.Trial) -> Trial:
        settings = (dimension.setting(trial.params[dimension.key]) for dimension in self._space)
        return Trial(trial.number, tuple(settings), trial.value if isinstance(trial, FrozenTrial) else None)


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    low, high, step = dimension.low, dimension.high, dimension.step
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=dimension.log, step=1 if step is None else int(step))
    return FloatDistribution(low, high, log=dimension.log, step=step)
