"""``hydra/launcher=kdbench``: hands a sweeper's whole batch of jobs to kdbench's executor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

ConfigStore.instance().store(
    group="hydra/launcher",
    name="kdbench",
    node={"_target_": "hydra_plugins.kdbench.launcher.KdbenchLauncher"},
    provider="kdbench",
)


class KdbenchLauncher(Launcher):
    """All jobs are known before the first starts, so networks that several of them need are trained once."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before the first batch."""
        self._task = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs; each returns the accuracy that a sweeper maximises, in percent."""
        results: Any = self._task.launch(job_overrides)  # type: ignore[attr-defined]
        return [
            JobReturn(overrides=list(overrides), _return_value=value, status=JobStatus.COMPLETED)
            for overrides, value in zip(job_overrides, results, strict=True)
        ]
