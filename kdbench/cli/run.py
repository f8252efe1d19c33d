"""A run or a sweep: compose, check, plan, train, show."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kdbench.backends import check_backend, open_backend, room, runs_elsewhere, walk
from kdbench.cache.savings import savings
from kdbench.cli.hydra_app import hydra_app
from kdbench.cli.show import Live, cache_notes, eval_notes, show_plan, show_results, write_run
from kdbench.config.checks import TRAINER_KEYS
from kdbench.config.compose import Composer
from kdbench.config.jobs import Job, is_hydra, make_jobs, with_data
from kdbench.config.recipes import Chain, ChainBuilder
from kdbench.config.studies import NONE
from kdbench.core.errors import ConfigError, Problems
from kdbench.core.recipe import Recipe, digest_of
from kdbench.data.catalog import describe, locate
from kdbench.estimate import estimate
from kdbench.loggers import check_sinks
from kdbench.plan import Plan, make_plan
from kdbench.report.console import make_console, print_line
from kdbench.settings import Settings, make_settings
from kdbench.store import Store
from kdbench.sweep import Outcome, run_here
from kdbench.watch import replay

DONE, FAILED = 0, 1


def run(arguments: argparse.Namespace) -> int:
    """Runs what the flags ask for; the exit status."""
    if arguments.help:
        from kdbench.cli.help import print_help

        return print_help(_composer(arguments))
    foreign = any(
        is_hydra(text.lstrip("+~").split("=")[0]) and "searchpath" not in text for text in arguments.overrides
    )
    if (
        arguments.info
        or arguments.shell_completion
        or arguments.hydra_help
        or arguments.cfg in ("hydra", "all")
        or foreign
    ):
        return hydra_app(arguments)
    composer = _composer(arguments)
    if arguments.cfg == "job":
        return _show_config(composer, arguments)
    jobs = make_jobs(composer, arguments.overrides, multirun=arguments.multirun)
    typed = shlex.join(["kdbench", *(["-m"] if arguments.multirun else []), *arguments.overrides])
    return run_jobs(jobs, multirun=arguments.multirun, command=typed).status


def _composer(arguments: argparse.Namespace) -> Composer:
    folders = [Path(folder) for folder in [arguments.config_dir] if folder]
    return Composer(folders, arguments.config_name or "config")


def _show_config(composer: Composer, arguments: argparse.Namespace) -> int:
    from omegaconf import OmegaConf

    for job in make_jobs(composer, arguments.overrides, multirun=arguments.multirun):
        config: Any = OmegaConf.create(dict(job.config))
        if arguments.package:
            config = OmegaConf.select(config, arguments.package)
        sys.stdout.write(f"{'---' + chr(10) if arguments.multirun else ''}{OmegaConf.to_yaml(config)}")
    return DONE


@dataclass(frozen=True)
class Result:
    """What came of a command.

    Attributes:
        status: 0, or 1 if a training failed.
        plan: What was planned.
        store: Where its networks are.
    """

    status: int
    plan: Plan
    store: Store

    def objective(self, chain: Chain) -> float | None:
        """What a sweeper or a search maximises: the student's accuracy in percent; nothing if it was not made."""
        recipe = chain.links[-1].recipe
        entry = self.store.get(recipe.digest)
        return None if entry is None else entry.metrics[objective_split(recipe)]["acc"]


def objective_split(recipe: Recipe) -> str:
    """Where a student is compared with others: on validation; on the test set only where the protocol does so."""
    return "test" if recipe.select_on == "test" or not recipe.data["val_fraction"] else "val"


def run_jobs(jobs: Sequence[Job], *, multirun: bool, command: str = "") -> Result:
    """Plans and executes jobs; a study ends with its report.

    Args:
        jobs: What to do.
        multirun: Whether they are executed in workers.
        command: What was typed, for the record.

    Raises:
        ConfigError: Anything is wrong with any job: all of it, and nothing was started.
        StoreError: Nothing can be stored; nothing was started.
        Stopped: A signal asked for it; what was being trained can be resumed.
    """
    config = jobs[0].config
    plan, store = plan_jobs(jobs)
    notes = cache_notes(savings(plan.missing), kept=config["cache"]["kind"] == "teacher")
    show_plan(plan, [*notes, *eval_notes(plan, store, config.get("eval", {}))])
    in_workers = multirun or runs_elsewhere(config["sweep"])
    sweep = config["sweep"] if in_workers else {**config["sweep"], "workers": 1}
    settings = make_settings(plan.chains, **room(sweep), multirun=multirun)
    if plan.missing and (found := estimate(plan, store, workers=sweep["workers"], threads=settings.threads)):
        print_line(make_console(), str(found))
    if config["dry_run"]:
        return Result(DONE, plan, store)
    outcomes = execute(plan, settings, sweep if in_workers else None)
    unmeasured = measure(plan, settings, in_workers=in_workers)
    try:
        write_run(plan, outcomes, settings, command, unmeasured)
    except OSError as error:  # a full or read-only disk: the networks and their numbers are what counts
        print_line(make_console(), f"note: no record of this run in {settings.run_dir}: {error.strerror}")
    show_results(plan, outcomes, settings)
    if config["study"]["name"] != NONE:
        _report(settings)
    failed = unmeasured or any(outcome.status in ("failed", "stopped") for outcome in outcomes.values())
    return Result(FAILED if failed else DONE, plan, store)


def _report(settings: Settings) -> None:
    """The report of a study, in W&B too if that was chosen."""
    from kdbench.cli.report import show_report  # needs NumPy, which help and configs do not

    folder = show_report(settings.run_dir)
    if (options := settings.loggers.get("wandb")) is not None:
        from kdbench.loggers.report import log_report

        log_report(folder, project=settings.project, group=settings.group, options=options)


def plan_jobs(jobs: Sequence[Job]) -> tuple[Plan, Store]:
    """What jobs would train, and where; everything about them that needs no torch has been checked.

    Raises:
        ConfigError: Anything is wrong with any job: all of it.
        StoreError: A stored network that is needed is damaged.
    """
    store = Store(Path(jobs[0].config["paths"]["outputs"]).expanduser() / "store")
    _check_common(jobs)
    chains = _chains(with_data(jobs), store)
    _check_surroundings(chains)
    return make_plan(chains, store), store


def _chains(jobs: Sequence[Job], store: Store) -> list[Chain]:
    def classes_in_file(*question: Any) -> int | None:
        from kdbench.config.build import classes_of_weights  # needs torch; asked only where a teacher brings weights

        return classes_of_weights(*question)

    def published(component: Any) -> str | None:
        from kdbench.models.pretrained import pretrained_identity  # needs torch

        return pretrained_identity(component)

    builder = ChainBuilder(store, classes_in_file, published)
    problems = Problems()
    chains = []
    for job in jobs:
        with problems.catching():
            chains.append(builder.build(job))
    problems.check()
    return chains


def _check_common(jobs: Sequence[Job]) -> None:
    """What changes no weight cannot tell the jobs of a sweep apart; it must be the same for all.

    Raises:
        ConfigError: It is not; each such key has its line.
    """
    first = _common(jobs[0])
    differing = {key for job in jobs for key, value in _common(job).items() if value != first.get(key, value)}
    if differing:
        raise ConfigError(f"{key}: differs between jobs, but changes no network; one sweep has one value of it"
                          for key in sorted(differing))  # fmt: skip


def _common(job: Job) -> dict[str, Any]:
    config = job.config
    trainer = {f"trainer.{key}": value for key, value in config["trainer"].items() if key not in TRAINER_KEYS}
    name = config["dataset"]["name"]
    places = {f"dataset.{key} (of dataset.name={name})": config["dataset"].get(key) for key in ("root", "in_memory")}
    shared = {key: config.get(key, {}) for key in ("paths", "logger", "eval", "sweep", "trust", "dry_run")}
    cache = {f"cache.{key}": config["cache"].get(key) for key in ("kind", "check")}
    return {**trainer, **cache, **shared, **places}


def _check_surroundings(chains: Sequence[Chain]) -> None:
    """Data, loggers, executor: what can be found missing before anything is built; equal ones are looked at once."""
    problems = Problems()
    seen: set[str] = set()
    for chain in chains:
        config = chain.job.config
        data = {**chain.links[-1].recipe.data, "root": config["dataset"]["root"]}
        sweep, paths, loggers = config["sweep"], config["paths"], config.get("logger", {})
        key = digest_of([data, paths, loggers, sweep])
        if key in seen:
            continue
        seen.add(key)
        with problems.catching():
            describe(data)
            locate(data["reader"], data["root"], Path(paths["data"]).expanduser())
        with problems.catching():
            check_sinks(loggers)
        problems.add(*check_backend(sweep))
    problems.check()


def execute(plan: Plan, settings: Settings, sweep: Mapping[str, Any] | None) -> dict[str, Outcome]:
    """Checks everything that is to be trained, then trains it; shows loggers what was in the store already.

    Args:
        plan: What to make.
        settings: Where things are.
        sweep: The config's node, to train in processes of a backend; nothing to train in this process.

    Raises:
        ConfigError: Something cannot be built; nothing was started.
        StoreError: Nothing can be stored; nothing was started.
        Stopped: A signal asked for it; what was being trained can be resumed.
    """
    with Live(plan) as live:
        if not plan.missing and not plan.unmeasured(settings.store, settings.evaluations):
            outcomes = {}
        elif sweep is None:
            outcomes = _execute_here(plan, settings, live)
        else:
            outcomes = _execute_in_workers(plan, settings, live, sweep)
    if settings.loggers:
        for node in plan.nodes.values():
            if node.entry is not None:
                replay(node, node.entry, settings)
    return outcomes


def _execute_here(plan: Plan, settings: Settings, live: Live) -> dict[str, Outcome]:
    from kdbench.measure import check_plan

    problems, unsuitable = check_plan(plan.missing, plan.finals, settings)
    if lines := [*problems, *unsuitable.values()]:
        raise ConfigError(lines)
    settings.store.ensure_writable()
    return run_here(plan, settings, live)


def _execute_in_workers(plan: Plan, settings: Settings, live: Live, sweep: Mapping[str, Any]) -> dict[str, Outcome]:
    from kdbench.backends.process import check_in_process

    checked = replace(settings, elsewhere=runs_elsewhere(sweep))
    problems, unsuitable = check_in_process(plan.missing, plan.finals, checked)
    if problems:
        raise ConfigError(problems)
    settings.store.ensure_writable()
    with open_backend(sweep, settings) as backend:
        return walk(plan, backend, live, workers=sweep["workers"], skip=unsuitable)


def measure(plan: Plan, settings: Settings, *, in_workers: bool) -> dict[str, Outcome]:
    """Makes the evaluations that networks of the plan still lack, as far as they were trained, on this machine.

    Returns:
        The failures, by evaluation and network.

    Raises:
        Stopped: A signal asked for it; what was measured is kept.
    """
    lacking = plan.unmeasured(settings.store, settings.evaluations)
    recipes = [recipe for recipe in lacking if settings.store.get(recipe.digest) is not None]
    say = partial(print_line, make_console())
    if not recipes:
        return {}
    if in_workers:
        from kdbench.backends.measuring import measure_in_processes

        return measure_in_processes(recipes, settings, say)
    from kdbench.measure import measure_here

    return measure_here(recipes, settings, say)
