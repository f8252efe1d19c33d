"""Values of which few make sense, in configs whose keys and types are right; known at once, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdbench.config.budget import budget_problems
from kdbench.config.cache import cache_problems
from kdbench.config.compose import lookup
from kdbench.config.source import NONE
from kdbench.core.errors import nearest
from kdbench.core.precision import PRECISIONS

TRAIN = ("auto", "full", "head", "none", "random")
GUIDANCE = ("chain", "dense", "none", "peer")
SELECT_ON = ("last", "val", "test")
_LEAST = {
    "generations": 1, "seed": 0, "trainer.max_epochs": 1, "trainer.batch_size": 1, "trainer.eval_batch_size": 1,
    "trainer.devices": 1, "trainer.checkpoint_every": 0, "trainer.loader_workers": 0, "trainer.threads": 1,
    "trainer.limit_train_batches": 1,
}  # fmt: skip


def value_problems(config: Mapping[str, Any]) -> list[str]:
    """What is wrong with the values of a job's config, or of that of one network of its chain; one line each."""
    checks = (_unknown, _selection, _ranges, _criteria, cache_problems, budget_problems)
    return [line for check in checks for line in check(config)]


def _unknown(config: Mapping[str, Any]) -> Iterator[str]:
    trainer = config["trainer"]
    choices = {
        "method.guidance": (config["method"]["guidance"], GUIDANCE),
        "select_on": (config["select_on"], SELECT_ON),
        "teacher.train": (config["teacher"].get("train", "auto"), TRAIN),
        "student.train": (config["student"].get("train", "auto"), TRAIN),
        **{f"assistants.{name}.train": (node["train"], TRAIN) for name, node in config.get("assistants", {}).items()},
        "trainer.precision": (trainer["precision"], PRECISIONS),
        "trainer.teacher_precision": (trainer["teacher_precision"], (None, *PRECISIONS)),
    }
    for key, (value, allowed) in choices.items():
        if value not in allowed:
            yield f"{key}={value}: unknown{nearest(str(value), filter(None, allowed))}"


def _selection(config: Mapping[str, Any]) -> Iterator[str]:
    if config["select_on"] == "test" and config["protocol"]["name"] == "clean":
        yield "select_on=test: choosing weights on the test set needs protocol=paper or protocol=released"
    if config["select_on"] == "val" and not config["protocol"]["validation"]:
        yield "select_on=val: this protocol holds out no validation split; use select_on=last"
    if config["student"].get("name") == NONE:
        yield "student=none: there is nothing to train"


def _ranges(config: Mapping[str, Any]) -> Iterator[str]:
    for key, least in _LEAST.items():
        _, value, _ = lookup(config, key)
        if value is not None and value < least:
            yield f"{key}={value}: must be at least {least}"
    trainer = config["trainer"]
    if (ema := trainer["ema"]) is not None and not 0 < ema < 1:
        yield f"trainer.ema={ema}: a decay per step between 0 and 1 is expected, e.g. 0.999"
    for key in ("trainer", "method"):
        if (clip := config[key].get("clip")) is not None and clip <= 0:
            yield f"{key}.clip={clip}: a norm greater than 0 is expected"
    if isinstance(lr := config["optim"].get("lr"), int | float) and lr <= 0:
        yield f"optim.lr={lr}: must be greater than 0"


def _criteria(config: Mapping[str, Any]) -> Iterator[str]:
    for name, criterion in config["method"]["criteria"].items():
        if not isinstance(criterion, Mapping) or "_target_" not in criterion:
            yield f"method.criteria.{name}: a mapping with _target_ is expected"
