"""What Hydra does for us: shell completion, its own help and info, and launchers and sweepers that are not ours."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from kdbench.config.compose import Composer, search_path
from kdbench.config.jobs import make_jobs
from kdbench.core.errors import ConfigError, Problems

# Hydra's own folders and logs: run folders are ours.
QUIET = (
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
    "hydra.run.dir=.",
    "hydra.sweep.dir=${paths.outputs}/runs/hydra",
    "hydra.sweep.subdir=.",
)


def hydra_app(arguments: argparse.Namespace) -> int:
    """Hands the command line to Hydra.

    Raises:
        ConfigError: Hydra refuses it.
    """
    logging.raiseExceptions = False  # a reader that goes away, as `| head` does, is no error
    folders = [Path(folder) for folder in [arguments.config_dir] if folder]
    config_name = arguments.config_name or "config"
    hydra = Hydra.create_main_hydra2("kdbench", search_path(folders))
    try:
        if arguments.shell_completion:
            hydra.shell_completion(config_name, arguments.overrides)
        elif arguments.hydra_help:
            hydra.hydra_help(config_name, get_args_parser(), arguments)
        elif arguments.info:
            hydra.show_info(arguments.info, config_name, arguments.overrides)
        elif arguments.cfg:
            hydra.show_cfg(config_name, arguments.overrides, arguments.cfg, arguments.package, arguments.resolve)
        else:
            return _launch(hydra, arguments, config_name, Composer(folders, config_name))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(str(error).strip().splitlines()[0]) from error
    finally:
        GlobalHydra.instance().clear()
    return 0


class _Task:
    """What launchers run: one job at a time for Hydra's and others, a whole batch for ours."""

    def __init__(self, composer: Composer) -> None:
        self._composer = composer
        self.status = 0

    def __call__(self, _: DictConfig) -> float | None:
        return self._run([list(HydraConfig.get().overrides.task)], multirun=False)[0]

    def launch(self, job_overrides: Sequence[Sequence[str]]) -> list[float | None]:
        """All jobs of a batch through our executor."""
        return self._run(job_overrides, multirun=True)

    def _run(self, job_overrides: Sequence[Sequence[str]], *, multirun: bool) -> list[float | None]:
        from kdbench.cli.run import run_jobs

        problems = Problems()
        jobs = []
        for overrides in job_overrides:
            with problems.catching():
                jobs += make_jobs(self._composer, overrides)
        problems.check()
        result = run_jobs(jobs, multirun=multirun)
        self.status = max(self.status, result.status)
        return [result.objective(chain) for chain in result.plan.chains]


def _launch(hydra: Hydra, arguments: argparse.Namespace, config_name: str, composer: Composer) -> int:
    task = _Task(composer)
    overrides = [*QUIET, *arguments.overrides]
    if not arguments.multirun:
        hydra.run(config_name, task, overrides)
    else:
        if not any(text.startswith("hydra/launcher=") for text in overrides):
            overrides.append("hydra/launcher=kdbench")
        hydra.multirun(config_name, task, overrides)
    return task.status
