"""What a person sees of a run: the plan, the progress, the table, and what to type next."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from kdbench.cache.identity import teaching
from kdbench.cache.savings import Savings
from kdbench.config.budget import image_counts
from kdbench.config.jobs import Job
from kdbench.core.errors import StoreError
from kdbench.core.recipe import Recipe
from kdbench.data.catalog import steps_per_epoch
from kdbench.plan import Plan, method_name
from kdbench.report.collect import SAID_BY_LABELS
from kdbench.report.console import PlanRow, ResultRow, ResultTable, count_text, make_console, print_line, print_plan
from kdbench.report.headlines import headlines
from kdbench.report.progress import Display
from kdbench.settings import Settings
from kdbench.store import Entry, Store
from kdbench.sweep import Outcome

WORTH_A_LINE = 0.1  # part of the teachers' work
IN_STORE = Outcome("in store")


def show_plan(plan: Plan, notes: Sequence[str] = ()) -> None:
    """One line per network; then the notes of chains and ``notes``, and which overrides which arms did not have."""
    console, apart = make_console(), _told_apart(plan)
    rows = [
        PlanRow(node.state, node.role, node.recipe.chain(), method_name(node.recipe),
                node.recipe.phase_epochs[-1], node.recipe.seed, digest, node.recipe.phase_epochs[:-1],
                apart.get(digest, ""))
        for digest, node in plan.nodes.items()
    ]  # fmt: skip
    print_plan(rows, console)
    named = sum(len(chain.links) for chain in plan.chains)
    if len(plan.chains) > 1:
        shared = f"; they name {named}, and what they share is trained once" if named > len(rows) else ""
        print_line(console, f"{len(plan.chains)} jobs{shared}")
    for note in dict.fromkeys([note for chain in plan.chains for note in chain.notes] + list(notes)):
        print_line(console, f"note: {note}")
    unused: dict[str, int] = {}
    for chain in plan.chains:
        for text in chain.job.unused:
            unused[text] = unused.get(text, 0) + 1
    for text, count in unused.items():
        print_line(console, f"note: {text} applies to {len(plan.chains) - count} of {len(plan.chains)} arms; "
                            "the others have no such key")  # fmt: skip


def cache_notes(found: Savings, *, kept: bool) -> list[str]:
    """What a cache of teachers' outputs would spare, where that is worth a line; what it does, where it is on."""
    notes = []
    if kept and found.live:
        notes.append(f"cache=teacher: the method of {', '.join(found.live)} reads features of its teachers; those that "
                     "are maps are not kept, and their teachers are asked at every step")  # fmt: skip
    spared = found.without - found.shown
    if found.without and (kept or spared > WORTH_A_LINE * found.without):
        hint = "" if spared > 0 else ("; it spares nothing here: augmented views are shared in a sweep by "
                                      "dataset.view_seed=0, or cycled through with cache.views=4")  # fmt: skip
        notes.append(
            f"cache=teacher {'shows' if kept else 'would show'} teachers {count_text(found.shown)} samples instead of "
            f"{count_text(found.without)}, for {count_text(found.bytes)}B on disk{hint}"
        )
    return notes


def eval_notes(plan: Plan, store: Store, evaluations: Mapping[str, Any]) -> list[str]:
    """What will be measured of how many networks."""
    if not evaluations:
        return []
    lacking = len(plan.unmeasured(store, evaluations))
    known = f", {len(plan.measured) - lacking} of them measured already" if lacking < len(plan.measured) else ""
    networks = f"{len(plan.measured)} network{'s' * (len(plan.measured) != 1)}"
    return [f"eval: {', '.join(evaluations)} of {networks} (students and what taught them){known}"]


class Live:
    """The progress of everything that is being trained; a :class:`kdbench.sweep.Board`."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._apart = plan, _told_apart(plan)
        self._console = make_console()
        self._display = Display(self._console, total=len(plan.missing))
        self._last: dict[str, tuple[int, int]] = {}
        self._result: dict[str, str] = {}

    def begin(self, recipe: Recipe) -> None:
        """A training starts."""
        budget = recipe.budget
        per_epoch = (
            steps_per_epoch(image_counts(recipe)[0], budget["batch_size"], budget["limit_train_batches"])
            if recipe.epochs
            else 0
        )
        self._display.start(recipe.digest, self._label(recipe), recipe.epochs, per_epoch * recipe.epochs)

    def step(self, recipe: Recipe, step: int, epoch: int) -> None:
        """It is at ``step``."""
        self._last[recipe.digest] = (step, epoch)
        self._display.update(recipe.digest, step, epoch)

    def row(self, recipe: Recipe, row: Mapping[str, float]) -> None:
        """An epoch ended with these numbers."""
        step, _ = self._last.get(recipe.digest, (0, 0))
        self._display.update(recipe.digest, step, int(row["epoch"]), row)
        self._result[recipe.digest] = f"val {row['val/acc']:.2f} %" if "val/acc" in row else ""

    def note(self, recipe: Recipe, text: str) -> None:
        """Something the user should know."""
        print_line(self._console, f"{self._label(recipe)}: {text}")

    def end(self, recipe: Recipe, outcome: Outcome) -> None:
        """It ended."""
        text = outcome.reason or self._result.get(recipe.digest, "")
        self._display.finish(recipe.digest, outcome.status, text)

    def _label(self, recipe: Recipe) -> str:
        method = method_name(recipe) if len(self._plan.chains) > 1 else None
        said = filter(None, (method, self._apart.get(recipe.digest), f"seed {recipe.seed}", recipe.digest[:8]))
        return f"{self._plan.nodes[recipe.digest].role} {recipe.name} ({', '.join(said)})"

    def __enter__(self) -> Self:
        self._display.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._display.__exit__(*exception)


def show_results(plan: Plan, outcomes: Mapping[str, Outcome], settings: Settings) -> None:
    """The table, where things are, and what to type next."""
    console = make_console()
    store = settings.store
    several = len(plan.chains) > 1
    apart = _told_apart(plan)
    rows = [replace(_result(plan, digest, outcomes.get(digest, IN_STORE), settings, several),
                    overrides=apart.get(digest, "")) for digest in _shown(plan)]  # fmt: skip
    ResultTable(rows).print(console)
    print_line(console, f"results: {settings.run_dir}   networks: {store.root}")
    if done := [row for row in rows if row.status in ("done", "in store")]:
        network, outputs = done[-1].id[:8], settings.outputs
        usual = outputs == Path(os.environ.get("KDBENCH_OUTPUTS", "outputs")).expanduser()
        option, override = ("", "") if usual else (f" --outputs {outputs}", f" paths.outputs={outputs}")
        print_line(console, f"next: kdbench store{option} show {network}   "
                            f"kdbench eval {network} 'eval=[calibration]'{override}")  # fmt: skip


def _shown(plan: Plan) -> list[str]:
    named = {link.recipe.digest for link in plan.links}
    return [digest for digest in plan.nodes if digest in named]


def _told_apart(plan: Plan) -> dict[str, str]:
    """By digest, what other columns do not say: a study's condition, or overrides of all jobs of a network alone."""
    jobs: dict[str, list[Job]] = {}
    for chain in plan.chains:
        for link in chain.links:
            jobs.setdefault(link.recipe.digest, []).append(chain.job)
    common = set.intersection(*(set(chain.job.overrides) for chain in plan.chains))

    def said(own: Sequence[Job], method: str | None) -> str:
        if own[0].arm:
            return own[0].condition if len({job.condition for job in own}) == 1 else ""
        theirs = set.intersection(*(set(job.overrides) for job in own)) - common
        return " ".join(text for text in own[0].overrides if text in theirs and not _in_columns(text, method))

    return {digest: said(own, method_name(plan.nodes[digest].recipe)) for digest, own in jobs.items()}


def _in_columns(text: str, method: str | None) -> bool:
    """Whether chain and method of a row say what was typed; a method's criteria may be called otherwise than it."""
    key, _, value = text.partition("=")
    return key in SAID_BY_LABELS and (key != "method" or method in (None, value.strip("[]").replace(",", "+")))


def _result(plan: Plan, digest: str, outcome: Outcome, settings: Settings, several: bool) -> ResultRow:
    node, store = plan.nodes[digest], settings.store
    recipe = node.recipe
    row = ResultRow(node.role, recipe.chain() if several else recipe.name, digest, method=method_name(recipe),
                    seed=recipe.seed, status=outcome.status, reason=outcome.reason)  # fmt: skip
    if outcome.status not in ("done", "in store"):
        return row
    entry = node.entry or store.get(digest)
    if entry is None:
        return replace(row, status="failed", reason="it is no longer in the store; somebody removed it")
    evals = headlines(store.find_evals(digest, settings.evaluations).values())
    return replace(row, **_numbers(entry), scratch_acc=_from_scratch(recipe, store), marks=_marks(recipe), evals=evals)


def _numbers(entry: Entry) -> dict[str, Any]:
    metrics = entry.metrics
    test = metrics["test"]
    return {
        "parameters": metrics["parameters"],
        "macs": metrics["macs"],
        "epochs": metrics["epochs"],
        "val_acc": metrics.get("val", {}).get("acc"),
        "test_acc": test["acc"],
        "agreement": test.get("agreement"),
        "teacher_queries": metrics["teacher_queries"] if entry.recipe.teachers else None,
        "queried_images": metrics.get("queried_images") if entry.recipe.teachers else None,
        "seconds": metrics["seconds"]["total"],
    }


def _from_scratch(recipe: Recipe, store: Store) -> float | None:
    """Test accuracy of the same network with the same everything but no teacher, where somebody trained it."""
    if not recipe.teachers:
        return None
    try:
        found = [entry for plain in recipe.untaught() if (entry := store.get(plain.digest))]
    except StoreError:  # kdbench store verify names it; this table is about others
        return None
    return found[0].metrics["test"]["acc"] if found else None


def _marks(recipe: Recipe) -> tuple[str, ...]:
    marks = ["weights selected on the test set: optimistic"] if recipe.select_on == "test" else []
    if lossy := {key: value for key, value in teaching(recipe).items() if key != "precision"}:
        words = ", ".join(f"{key}={value}" for key, value in lossy.items())
        marks.append(f"taught from a cache that changes the training: {words}")
    return tuple(marks)


def write_run(plan: Plan, outcomes: Mapping[str, Outcome], settings: Settings, command: str,
              unmeasured: Mapping[str, Outcome] | None = None, **more: Any) -> None:  # fmt: skip
    """Writes ``run.json`` (jobs, networks, outcomes) and one text file for each failure, into the run's folder.

    Args:
        plan: What was planned.
        outcomes: What came of it.
        settings: Where to write.
        command: What was typed; empty if nobody typed it.
        unmeasured: Failures of evaluations by their names.
        more: What else shall stand in the record.
    """
    folder = settings.run_dir
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        {
            "arm": chain.job.arm,
            "condition": chain.job.condition,
            "protocol": chain.job.config["protocol"]["name"],
            "overrides": list(chain.job.overrides),
            "unused": list(chain.job.unused),
            "networks": [{"role": link.role, "name": link.name, "digest": link.recipe.digest} for link in chain.links],
        }
        for chain in plan.chains
    ]
    ended = {digest: outcomes.get(digest, IN_STORE) for digest in plan.nodes}
    statuses = {digest: {"status": outcome.status, "reason": outcome.reason} for digest, outcome in ended.items()}
    failures = {name: outcome.reason for name, outcome in (unmeasured or {}).items()}
    study, evaluations = plan.chains[0].job.config["study"], settings.evaluations
    record = {"command": command, "study": study, "eval": evaluations, "unmeasured": failures, "jobs": jobs,
              "networks": statuses, **more}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record, indent=1) + "\n")
    named = {f"{plan.nodes[digest].recipe.name}-{digest[:8]}": outcome for digest, outcome in outcomes.items()}
    shutil.rmtree(folder / "failures", ignore_errors=True)  # of an earlier attempt
    for name, outcome in (named | dict(unmeasured or {})).items():
        if outcome.status == "failed":
            (folder / "failures").mkdir(exist_ok=True)
            (folder / "failures" / f"{name}.txt").write_text(f"{outcome.reason}\n\n{outcome.details}")
