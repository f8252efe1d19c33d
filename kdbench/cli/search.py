"""``kdbench search``: tunes keys that are typed as a sweep; every trial is an ordinary job, shared by the store."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from kdbench.backends import room, runs_elsewhere
from kdbench.cli.arguments import Parser
from kdbench.cli.run import Result, execute, objective_split, plan_jobs
from kdbench.cli.show import write_run
from kdbench.config.compose import Composer
from kdbench.config.jobs import Job, make_jobs
from kdbench.config.space import Dimension, split_space
from kdbench.core.errors import ConfigError, Problems
from kdbench.core.recipe import digest_of
from kdbench.plan import Plan
from kdbench.report.console import Column, make_console, print_columns, print_line
from kdbench.settings import Settings, make_settings
from kdbench.sweep import Outcome

if TYPE_CHECKING:
    from kdbench.search import Search, Trial

BEST = 10  # rows of the table
EXAMPLES = """\
'method.temperature=choice(1,2,5,10)' 'optim.lr=tag(log,interval(0.001,0.1))' search.trials=40
search=takd teacher=plain10 student=plain2 dataset=cifar100"""


def main(arguments: Sequence[str]) -> int:
    """Searches, and prints the best and what to type next; 1 if a training failed."""
    parser = Parser(prog="kdbench search", description="Tunes keys on the validation split with Optuna's TPE.",
                    epilog=f"for example: {EXAMPLES.replace(chr(10), '; or ')}")  # fmt: skip
    parser.add_argument(
        "overrides", nargs="*", default=[], help="what is fixed, what is searched, search.trials=N, search.seed=N"
    )
    parser.add_argument("--config-dir", help="a folder of your own YAMLs")
    given = parser.parse_args(list(arguments))
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("kdbench search needs a package: pip install 'kdbench[search]'")
    task = _prepare(Composer([Path(given.config_dir)] if given.config_dir else [], "search"), given.overrides)
    console = make_console()
    _announce(task, console)
    if task.config["dry_run"]:
        return 0
    return _run(task, console)


@dataclass
class _Task:
    """A checked search.

    Attributes:
        command: What was typed.
        composer: Makes the jobs of trials.
        fixed: Overrides of every trial.
        space: What is searched.
        config: Of a trial; what it says beside the searched keys holds for all.
        split: What decides: ``val`` or ``test``.
        settings: Where things are.
        outcomes: How trainings of this process ended.
    """

    command: str
    composer: Composer
    fixed: list[str]
    space: list[Dimension]
    config: Mapping[str, Any]
    split: str
    settings: Settings
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def job(self, overrides: Sequence[str]) -> Job:
        """The job of a trial."""
        (job,) = make_jobs(self.composer, [*self.fixed, *overrides])
        return job


def _prepare(composer: Composer, overrides: Sequence[str]) -> _Task:
    """Checks every choice and both ends of every interval as jobs of a sweep, before anything is written.

    Raises:
        ConfigError: Nothing is searched, or a value is wrong; all of it, one line each.
    """
    typed, _ = split_space(composer, overrides)
    preset = make_jobs(composer, typed)[0].config["search"]
    fixed, space = split_space(composer, [*preset["space"], *overrides])
    if not space:
        raise ConfigError(f"nothing is searched: give a key several values, e.g. kdbench search {EXAMPLES}"
                          .partition("\n")[0])  # fmt: skip
    if chosen := make_jobs(composer, fixed)[0].config.get("eval"):
        raise ConfigError(f"eval=[{','.join(chosen)}]: a search chooses by accuracy and measures nothing else; "
                          "leave it out, and measure what was found with kdbench eval ID")  # fmt: skip
    if preset["trials"] < 1:
        raise ConfigError(f"search.trials={preset['trials']}: must be at least 1")
    first = {dimension.key: dimension.setting(dimension.ends[0]) for dimension in space}
    problems, jobs = Problems(), []
    for dimension in space:
        for value in dimension.ends:
            with problems.catching():
                jobs += make_jobs(composer, [*fixed, *{**first, dimension.key: dimension.setting(value)}.values()])
    problems.check()
    plan, _ = plan_jobs(jobs)
    config = plan.chains[0].job.config
    splits = {objective_split(chain.links[-1].recipe) for chain in plan.chains}
    if len(splits) > 1 or (splits == {"test"} and config["protocol"]["name"] == "clean"):
        raise ConfigError("a search chooses on validation: leave dataset.val_fraction above 0, and select_on alone")
    settings = make_settings(plan.chains, **room(config["sweep"]), multirun=True)
    _check_buildable(plan, replace(settings, elsewhere=runs_elsewhere(config["sweep"])))
    identity = [plan.chains[0].links[-1].recipe.digest, [vars(dimension) for dimension in space], preset["seed"]]
    folder = settings.outputs / "runs" / f"search-{digest_of(identity)[:8]}"
    settings = replace(settings, run_dir=folder, group=folder.name)
    command = shlex.join(["kdbench", "search", *overrides])
    return _Task(command, composer, fixed, space, config, splits.pop(), settings)


def _check_buildable(plan: Plan, settings: Settings) -> None:
    from kdbench.backends.process import check_in_process

    problems, unsuitable = check_in_process(plan.missing, plan.finals, settings)
    if lines := [*problems, *dict.fromkeys(unsuitable.values())]:
        raise ConfigError(lines)


def _announce(task: _Task, console: Console) -> None:
    keys = ", ".join(dimension.key for dimension in task.space)
    print_line(console, f"search over {keys}: {task.config['search']['trials']} trials, compared by {task.split}/acc")
    if task.split == "test":
        protocol = task.config["protocol"]["name"]
        print_line(console, f"WARNING: protocol={protocol} chooses on the TEST SET: all numbers here are optimistic")


def _run(task: _Task, console: Console) -> int:
    from kdbench.search import Search

    search = Search(task.settings.run_dir, task.space, seed=task.config["search"]["seed"])
    total, at_a_time = task.config["search"]["trials"], task.config["sweep"]["workers"]
    if known := len(search.trials):
        print_line(console, f"{known} trials are known, {len(search.begun())} of them unfinished")
    unfinished = search.begun()
    while unfinished or len(search.trials) < total:
        batch, unfinished = unfinished[:at_a_time], unfinished[at_a_time:]
        while len(batch) < at_a_time and len(search.trials) < total:
            batch.append(search.ask())
        _make(task, search, batch, console)
    return _finish(task, search, console)


def _make(task: _Task, search: Search, batch: Sequence[Trial], console: Console) -> None:
    plan, store = plan_jobs([task.job(trial.overrides) for trial in batch])
    outcomes = execute(plan, task.settings, task.config["sweep"])
    task.outcomes.update(outcomes)
    result = Result(0, plan, store)
    for trial, chain in zip(batch, plan.chains, strict=True):
        value = result.objective(chain)
        search.tell(trial, value)
        best = search.ranking[0].value if search.ranking else None
        print_line(console, f"trial {trial.number + 1}/{task.config['search']['trials']}  {_percent(value)}  "
                            f"{' '.join(trial.overrides)}  (best {_percent(best)})")  # fmt: skip


def _percent(value: float | None) -> str:
    return "failed" if value is None else f"{value:.2f} %"


def _finish(task: _Task, search: Search, console: Console) -> int:
    """The table, the record, and the command line of the best."""
    ranking = search.ranking
    plan, _ = plan_jobs([task.job(trial.overrides) for trial in search.trials])
    digests = [chain.links[-1].recipe.digest for chain in plan.chains]
    best = list(ranking[0].overrides) if ranking else None
    record = {"tuned_trials": len(search.trials), "selected_on": task.split, "best": best}
    write_run(plan, task.outcomes, task.settings, task.command, search=record)
    shown = ranking[:BEST]
    keys = [dimension.key for dimension in task.space]
    values = [[trial.overrides[index].partition("=")[2] for trial in shown] for index in range(len(keys))]
    print_columns([
        Column("trial", [str(trial.number + 1) for trial in shown]),
        Column(f"{task.split} %{' *' * (task.split == 'test')}", [f"{trial.value:.2f}" for trial in shown]),
        *(Column(key, column) for key, column in zip(keys, values, strict=True)),
        Column("id", [digests[trial.number][:8] for trial in shown]),
    ], console)  # fmt: skip
    if task.split == "test":
        print_line(console, "* chosen on the test set: optimistic")
    print_line(console, f"results: {task.settings.run_dir}   {len(search.trials)} trials, "
                        f"{len(search.trials) - len(ranking)} failed")  # fmt: skip
    if ranking:
        command = [text for text in [*task.fixed, *ranking[0].overrides] if not text.startswith("search")]
        print_line(console, f"best: kdbench {shlex.join(command)}")
    return 1 if len(ranking) < len(search.trials) else 0
