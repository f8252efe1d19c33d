"""The first stage of checks: names, types and files, without torch; all errors at once."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from kdbench.config.compose import LISTED_GROUPS, Composer, Setting, lookup
from kdbench.config.source import NONE, ORIGINS, ROLES, node_name
from kdbench.core.errors import nearest

BUDGET_KEYS = (  # of trainer: they change weights
    "max_epochs", "batch_size", "limit_train_batches", "precision", "layout", "clip", "ema", "compile", "matmul",
)  # fmt: skip
TRAINER_KEYS = (*BUDGET_KEYS, "teacher_precision")  # of trainer: may differ between the networks of a chain
HOP_KEYS = ("method", "optim", "trainer", "budget", "seed", "select_on")  # may differ between a chain's networks


# Keys that may be null, with a value of the kind they take otherwise.
NULLABLE: dict[str, Any] = {
    "seed": 0, "checkpoint": "FILE", "trainer.limit_train_batches": 1, "trainer.clip": 1.0, "trainer.ema": 0.999,
    "method.clip": 1.0, "trainer.threads": 1, "trainer.teacher_precision": "bf16-mixed", "trainer.compile": "default",
    "cache.views": 1, "cache.top_k": 1, "dataset.root": "DIR", "dataset.view_seed": 0, "dataset.train_size": 1,
    "dataset.fraction": 1.0, "dataset.mean": [], "dataset.std": [], "dataset.checksum": "SHA-256",
    "budget.teacher_queries": 1,
    "dataset.in_memory": True, "trainer.loader_workers": 1, "dataset.repo": "NAME", "dataset.subset": "NAME",
    "dataset.image_column": "NAME", "dataset.label_column": "NAME",
}  # fmt: skip


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", list: "a list"}
    return kinds.get(type(value), "a mapping" if isinstance(value, Mapping) else "a value")


def coerce(key: str, default: Any, value: Any) -> tuple[Any, str | None]:
    """``value`` in the type of ``default``, and what is wrong with it, if anything.

    A component's YAML is its schema: a float takes whole numbers, null takes anything, weights take schedules too.
    """
    if isinstance(value, str) and "${" in value:
        return value, None
    for suffix, example in NULLABLE.items():
        if f".{key}".endswith(f".{suffix}"):
            default = None if value is None else example
    if not _finite(value):
        return value, f"{key}={_shown(value)}: not a finite number"
    if default is None:
        return value, None
    is_weight = key.startswith("method.") and key.split(".")[-2] == "weights"  # a number or a schedule
    if (isinstance(default, float) or is_weight) and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value), None
    if is_weight and isinstance(value, Mapping):
        return value, None
    if isinstance(default, Mapping) and default and isinstance(value, Mapping) and not key.startswith("method."):
        return value, f"{key}={_shown(value)}: replaces {', '.join(map(str, default))} together; set them one by one"
    if type(value) is type(default) or (isinstance(value, Mapping) and isinstance(default, Mapping)):
        return value, None
    return value, f"{key}={_shown(value)}: {_kind(default)} is expected (default: {_shown(default)})"


def _finite(value: Any) -> bool:
    if isinstance(value, Mapping | list):
        return all(map(_finite, value.values() if isinstance(value, Mapping) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def option_problems(composer: Composer, setting: Setting) -> list[str]:
    """What is wrong with the choice of a group's options."""
    group, chosen = setting.key, setting.value
    if chosen is None:
        return [f"{setting.text}: choose an option{', none for no teacher' if group == 'teacher' else ''}"
                f"{nearest('', composer.options(group))}"]  # fmt: skip
    if isinstance(chosen, list) and group not in (*LISTED_GROUPS, "method"):
        ensemble = "; teacher.ensemble=2 makes two of one network" if group == "teacher" else ""
        return [f"{setting.text}: {group} takes one option, not a list{ensemble}"]
    if chosen == [] and group == "method":
        return [f"{setting.text}: choose a method, or none"]
    names = [str(name) for name in (chosen if isinstance(chosen, list) else [chosen])]
    problems = []
    for name in names:
        if not composer.has_option(group, name):
            origins = [f"{origin}/NAME" for origin in ORIGINS] if group in ROLES else []
            problems.append(f"{group}={name}: unknown{nearest(name, [*composer.options(group), *origins])}")
    keys = [node_name(name) for name in names]
    if doubled := sorted({key for key in keys if keys.count(key) > 1}):
        reason = "; a chain names each network once" if group == "assistants" else ""
        problems.append(f"{setting.text}: {', '.join(doubled)} named twice{reason}")
    return problems


def unknown_key(key: str, configs: Iterable[Mapping[str, Any]], groups: Iterable[str]) -> str:
    """The error line of a key that no config has, with its nearest match on the level where the walk failed."""
    parts = key.split(".")
    depth, node = max((_deepest(parts, config) for config in configs), key=lambda found: found[0])
    if depth:
        return f"{key}: no such key{nearest(parts[depth], map(str, node))}"
    return f"{key}: no such key or group{nearest(parts[0], {*map(str, node), *groups})}"


def not_chosen(key: str, composer: Composer, configs: Iterable[Mapping[str, Any]]) -> str | None:
    """The error line of a key of an option that exists but is not in its list, if it is one."""
    for group in LISTED_GROUPS:
        place = group.replace("/", ".")
        name = key.removeprefix(f"{place}.").partition(".")[0]
        if (key.startswith(f"{place}.") and composer.has_option(group, name)
                and not any(lookup(config, f"{place}.{name}")[0] for config in configs)):  # fmt: skip
            return f"{key}: {name} is not chosen; add it: {place}=[...,{name}]"
    return None


def _deepest(parts: list[str], config: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
    """How many parts of a key lead to mappings in a config, and the last of these."""
    for depth in range(len(parts), 0, -1):
        found, node, _ = lookup(config, ".".join(parts[:depth]))
        if found and isinstance(node, Mapping):
            return depth, node
    return 0, config


def hop_problems(setting: Setting, chains: Iterable[list[str]]) -> list[str]:
    """What is wrong with the form of ``hops.NAME.KEY``; the key itself is checked as any other."""
    parts = setting.key.split(".")
    if len(parts) < 3:
        return [f"{setting.text}: the form is hops.NETWORK.KEY=VALUE, e.g. hops.plain4.method.temperature=2"]
    names = {name for chain in chains for name in chain}
    if parts[1] not in names:
        return [f"{setting.key}: no arm trains a network {parts[1]!r}{nearest(parts[1], names)}"]
    if parts[2] == "trainer" and len(parts) > 3 and parts[3] not in TRAINER_KEYS:
        return [
            f"{setting.key}: the same for all networks of a chain; a hop can have its own {', '.join(TRAINER_KEYS)}"
        ]
    if parts[2] not in HOP_KEYS:
        return [f"{setting.key}: {parts[2]} is the same for all networks of a chain; "
                f"a hop can have its own {', '.join(HOP_KEYS)}"]  # fmt: skip
    return []


def network_names(config: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """What each network of a config answers to in ``hops``, by its role or, for assistants, its name."""
    roles = {role: (role, str(config[role]["name"])) for role in ("teacher", "student")}
    named = {role: names for role, names in roles.items() if names[1] != NONE}
    return named | {name: (name,) for name in config.get("assistants", {})}


def chain_names(config: Mapping[str, Any]) -> list[str]:
    """Everything that ``hops`` can be followed by."""
    return [name for names in network_names(config).values() for name in names]


def conflicts(composer: Composer, methods: list[str], typed: Iterable[str]) -> list[str]:
    """Why several methods cannot be added up: a criterion in two of them, or a knob on which they disagree.

    Flat files merge silently, the last one winning; so each is composed alone and compared here.
    """
    problems: list[str] = []
    seen: dict[str, tuple[str, Any]] = {}
    given = set(typed)
    for name in methods:
        method = composer.resolve((f"method={name}",), ())["method"]
        for criterion in method["criteria"]:
            key = f"method.criteria.{criterion}"
            if key in seen:
                problems.append(f"method=[{','.join(methods)}]: {seen[key][0]} and {name} both have {criterion!r}")
            seen[key] = (name, None)
        knobs = {f"method.{key}": value for key, value in method.items() if not isinstance(value, Mapping)}
        knobs["method.weights.task"] = method["weights"].get("task")
        for key, value in knobs.items():
            if key in seen and seen[key][1] != value and key not in given:
                problems.append(f"method=[{','.join(methods)}]: {key} is {seen[key][1]} in {seen[key][0]} and {value} "
                                f"in {name}; give it: {key}=VALUE")  # fmt: skip
            seen.setdefault(key, (name, value))
    return problems
