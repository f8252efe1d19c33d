"""Results of a run folder without a study: a single run, or any sweep. Reads the store; needs no torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdbench.core.errors import ConfigError, nearest
from kdbench.core.recipe import Recipe, digest_of, topological
from kdbench.report.flags import find_flags
from kdbench.report.headlines import headlines
from kdbench.report.results import Arm, Network, StudyResult
from kdbench.report.summary import Group, group
from kdbench.store import Entry, Store

RECORD = "run.json"
SAID_BY_LABELS = ("seed", "teacher", "student", "assistants", "method")  # by chain and method, or no difference at all
_CONDITION = ("kind", "rate", "factor")
_SELECTED = {"last": "last epoch", "val": "best epoch on validation", "test": "best epoch on the test set"}


def find_run(outputs: Path, wanted: str | None) -> Path:
    """The run folder that was asked for.

    Args:
        outputs: The folder of ``paths.outputs``.
        wanted: A folder, or the name of one in ``outputs/runs``; ``None`` for the newest.

    Raises:
        ConfigError: There is none.
    """
    runs = outputs / "runs"
    records = sorted(runs.glob(f"*/{RECORD}"), key=lambda record: (record.stat().st_mtime_ns, record.parent.name))
    if wanted is None:
        if not records:
            raise ConfigError(f"{runs}: nothing was run yet; run something, or name a folder")
        return records[-1].parent
    for folder in (Path(wanted).expanduser(), runs / wanted):
        if (folder / RECORD).is_file():
            return folder
    raise ConfigError(f"{wanted}: neither a run folder nor the name of one in {runs}"
                      f"{nearest(wanted, [record.parent.name for record in records])}")  # fmt: skip


def collect_run(folder: Path) -> StudyResult:
    """Everything a report shows of a run folder; ``outputs`` is the folder two above it.

    Raises:
        ConfigError: Its record cannot be read, or none of its networks is in the store.
        StoreError: A network of it is damaged.
    """
    record = _read(folder / RECORD)
    store = Store(folder.resolve().parent.parent / "store")
    jobs = [job for job in record["jobs"] if store.get(job["networks"][-1]["digest"])]
    roles = {named["digest"]: named["role"] for job in jobs for named in job["networks"]}
    finals = [job["networks"][-1]["digest"] for job in jobs] if len(jobs) > 1 else list(roles)
    entries = [entry for recipe in _recipes(store, roles) if (entry := store.get(recipe.digest))]
    taught_others = {teacher.digest for entry in entries for teacher in entry.recipe.teachers}
    for entry in entries:
        roles.setdefault(entry.digest, "teacher" if entry.digest in taught_others else "alone")
    networks = tuple(network_of(entry, roles[entry.digest], store, record.get("eval", {})) for entry in entries)
    arms = _arms(networks, finals, jobs)
    shown = [network for arm in arms for network in arm.networks]
    return StudyResult(
        name=folder.resolve().name,
        title=_title(arms),
        source="",
        command=command_of([job["overrides"] for job in record["jobs"]]),
        protocol="; ".join(dict.fromkeys(network.protocol for network in shown)),
        dataset=", ".join(dict.fromkeys(network.dataset for network in shown)),
        size="full",
        flags=(*find_flags(networks, arms), *_failures(record)),
        networks=networks,
        arms=arms,
    )


def network_of(entry: Entry, role: str, store: Store, evaluations: Mapping[str, Any]) -> Network:
    """What a report needs of a stored network.

    Args:
        entry: The network.
        role: Which it plays here.
        store: Where its later measurements are.
        evaluations: Options of those that the run asked for: of several of a name, these are shown.

    Raises:
        StoreError: Its history or a measurement is damaged.
    """
    recipe, metrics, test = entry.recipe, entry.metrics, entry.metrics["test"]
    wanted = store.find_evals(entry.digest, evaluations)
    evals = {kept["evaluation"]: kept for kept in store.evals(entry.digest) if kept["split"] == "test"} | wanted
    validation = "validation split held out" if recipe.data.get("val_fraction") else "no validation split"
    return Network(
        digest=entry.digest,
        name=recipe.name,
        role=role,
        chain=tuple(recipe.chain().split(" -> ")),
        seed=recipe.seed,
        method=None if recipe.method is None else "+".join(recipe.method["criteria"]),
        variant=variant_of(recipe),
        dataset=_dataset(recipe.data),
        protocol=f"{validation}, {_SELECTED[recipe.select_on]}",
        select_on=recipe.select_on,
        parameters=metrics["parameters"],
        macs=metrics["macs"],
        epochs=metrics["epochs"],
        images=metrics["images"],
        teacher_queries=metrics["teacher_queries"],
        queried_images=metrics.get("queried_images"),
        extra_parameters=metrics["extra_parameters"],
        seconds=metrics["seconds"]["total"],
        val_acc=metrics.get("val", {}).get("acc"),
        best_val_acc=max((row["val/acc"] for row in entry.history if "val/acc" in row), default=None),
        test_acc=test["acc"],
        agreement=test.get("agreement"),
        size_bytes=entry.checksums["last.safetensors"].bytes,
        teacher_digest=recipe.teachers[-1].digest if recipe.teachers else None,
        root_digest=_root(recipe).digest,
        evals={name: kept["result"] for name, kept in evals.items()},
        headlines=headlines(wanted.values()),
        history=tuple(entry.history),
    )


def _dataset(data: Mapping[str, Any]) -> str:
    """Its name, and what was done to its training images: numbers of different conditions never share a line."""
    kind, *options = (value for key, value in data.get("corruption", {"kind": "none"}).items() if key in _CONDITION)
    return str(data["name"]) if kind == "none" else f"{data['name']} with {kind} {' '.join(map(str, options))}".rstrip()


def variant_of(recipe: Recipe) -> str:
    """Digest of a recipe without its own and its teachers' seeds: equal for replicates."""

    def unseeded(recipe: Recipe) -> Recipe:
        return replace(recipe, seed=0, teachers=tuple(unseeded(teacher) for teacher in recipe.teachers))

    return unseeded(recipe).digest


def command_of(jobs: Sequence[Sequence[str]]) -> str:
    """The command that stands for these jobs: one line if they are a full grid, one line each if not."""
    if len(jobs) == 1:
        return shlex.join(["kdbench", *jobs[0]])
    grid: dict[str, dict[str, None]] = {}
    for key, value in (override.split("=", 1) for job in jobs for override in job):
        grid.setdefault(key, {})[value] = None
    combinations = 1
    for values in grid.values():
        combinations *= len(values)
    if combinations == len(jobs) and len({digest_of(sorted(job)) for job in jobs}) == len(jobs):
        return shlex.join(["kdbench", "-m", *(f"{key}={','.join(values)}" for key, values in grid.items())])
    return "\n".join(command_of([job]) for job in jobs)


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
        if record["jobs"] and record["networks"]:
            return record
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read; run the same command again, it is written anew") from error
    raise ConfigError(f"{path}: names no network; run the same command again, it is written anew")


def _recipes(store: Store, digests: Mapping[str, str]) -> Iterator[Recipe]:
    """What jobs name, what taught it, and the same networks trained alone; whatever of it is stored is wanted."""
    named = [entry.recipe for digest in digests if (entry := store.get(digest))]
    alone = [plain for recipe in topological(named) if recipe.teachers for plain in recipe.untaught()]
    return topological([*named, *alone])


def _root(recipe: Recipe) -> Recipe:
    return _root(recipe.teachers[-1]) if recipe.teachers else recipe


def _arms(networks: Sequence[Network], finals: Sequence[str], jobs: Sequence[Mapping[str, Any]]) -> tuple[Arm, ...]:
    known = {network.digest: network for network in networks}
    groups = group(known[digest] for digest in dict.fromkeys(finals))
    overrides = {job["networks"][-1]["digest"]: job["overrides"] for job in jobs}
    labels = _labels(groups, overrides)
    return tuple(
        Arm(label, label, found.first.chain, found.first.method, found.networks)
        for label, found in zip(labels, groups, strict=True)
    )


def _labels(groups: Sequence[Group], overrides: Mapping[str, Sequence[str]]) -> list[str]:
    """Chains; where those are not unique also methods, then the overrides that tell the arms apart, then variants."""
    own = [
        " ".join(text for text in overrides.get(found.first.digest, ()) if text.split("=")[0] not in SAID_BY_LABELS)
        for found in groups
    ]
    parts = zip([" -> ".join(found.first.chain) for found in groups],
                [found.first.method or "alone" for found in groups],
                own if len(set(own)) > 1 else [""] * len(own),
                [found.first.variant[:8] for found in groups], strict=True)  # fmt: skip
    parts = [[part for part in texts if part] for texts in parts]
    depth = 1
    while len({tuple(texts[:depth]) for texts in parts}) < len(parts):
        depth += 1
    return [", ".join(texts[:depth]) for texts in parts]


def _title(arms: Sequence[Arm]) -> str:
    ends = dict.fromkeys(arm.chain[-1] for arm in arms)
    starts = dict.fromkeys(arm.chain[0] for arm in arms if len(arm.chain) > 1)
    return " and ".join(ends) + (f" taught by {' and '.join(starts)}" if starts else "")


def _failures(record: Mapping[str, Any]) -> list[str]:
    ended = {digest: outcome for digest, outcome in record["networks"].items()
             if outcome["status"] in ("failed", "skipped", "stopped")}  # fmt: skip
    return [
        *(f"{outcome['status']}: network {digest[:8]}: {outcome['reason']}" for digest, outcome in ended.items()),
        *(f"failed: {name}: {reason}" for name, reason in record.get("unmeasured", {}).items()),
    ]
