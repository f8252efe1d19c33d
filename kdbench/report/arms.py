"""The table of a study's arms: every number with its seeds, its cost and its published counterpart."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from kdbench.report.console import count_text, number_text, percent_text, time_text
from kdbench.report.flags import chain_cost
from kdbench.report.results import Arm, Comparison, Network, Published, StudyResult
from kdbench.report.summary import summarise
from kdbench.report.tables import Field, as_markdown, path_table
from kdbench.report.words import arrows, interval_text, p_text, points, sentences, spread_text

_COSTS = ("parameters", "macs", "size_bytes", "epochs", "images", "queried_images", "teacher_queries",
          "extra_parameters")  # fmt: skip


def published_of(result: StudyResult, arm: Arm) -> Published | None:
    """The published counterpart of an arm, of several the first; never beside a smoke run."""
    return next((value for value in result.published if value.arm == arm.name and result.size == "full"), None)


def published_columns(result: StudyResult) -> dict[str, dict[str, Published]]:
    """Published values by who published them and by arm; the first of each, in the order of the study."""
    columns: dict[str, dict[str, Published]] = {}
    for value in result.published if result.size == "full" else ():
        if value.arm is not None:
            columns.setdefault(value.column, {}).setdefault(value.arm, value)
    return columns


def arm_records(result: StudyResult) -> list[dict[str, Any]]:
    """One flat record per arm, every number as it is, ``None`` where unknown: the rows of ``table.csv``."""
    compared = {one.arm: one for one in reversed(result.comparisons)}  # of several references the first
    known = {network.digest: network for network in result.networks}
    headings = dict.fromkeys(heading for arm in result.arms for one in arm.networks for heading in one.headlines)
    return [
        {
            **_measured(arm),
            **_compared(compared.get(arm.name)),
            **_published(published_of(result, arm)),
            **_evaluated(arm, headings),
            **_cost(arm.networks, known),
        }
        for arm in result.arms
    ]


def _measured(arm: Arm) -> dict[str, Any]:
    first, test = arm.networks[0], summarise([network.test_acc for network in arm.networks])
    return {
        "arm": arm.name,
        "chain": " -> ".join(arm.chain),
        "method": arm.method,
        "dataset": first.dataset,
        "protocol": first.protocol,
        "select_on": first.select_on,
        "seeds": " ".join(str(network.seed) for network in arm.networks),
        "n": test.n,
        "test_acc": test.mean,
        "test_acc_sd": test.sd,
        "test_acc_low": test.low,
        "test_acc_high": test.high,
        **{key: _mean(arm.networks, key) for key in ("val_acc", "best_val_acc", "agreement")},
    }


def _mean(networks: Sequence[Network], key: str) -> float | None:
    values = [getattr(network, key) for network in networks]
    return None if None in values else statistics.fmean(values)


def _evaluated(arm: Arm, headings: Iterable[str]) -> dict[str, Any]:
    """Mean and standard deviation of each evaluation over the seeds that have it."""
    found: dict[str, Any] = {}
    for heading in headings:
        values = [value for one in arm.networks if (value := one.headlines.get(heading)) is not None]
        summary = summarise(values) if values else None
        found |= {heading: summary and summary.mean, f"{heading} sd": summary and summary.sd}
    return found


def _compared(comparison: Comparison | None) -> dict[str, Any]:
    keys = {"reference": "reference", "difference": "difference", "difference_low": "low", "difference_high": "high",
            "p": "p", "p_corrected": "p_corrected", "correction": "correction"}  # fmt: skip
    return {key: getattr(comparison, name, None) for key, name in keys.items()}


def _published(value: Published | None) -> dict[str, Any]:
    keys = {"": "value", "_sd": "sd", "_source": "source", "_confidence": "confidence"}
    return {f"published{key}": getattr(value, name, None) for key, name in keys.items()}


def _cost(networks: Sequence[Network], known: Mapping[str, Network]) -> dict[str, Any]:
    return {
        **{key: getattr(networks[0], key) for key in _COSTS},
        "chain_images": chain_cost(networks[0], known, "images"),
        "seconds": _mean(networks, "seconds"),
        "chain_seconds": statistics.fmean(chain_cost(network, known, "seconds") for network in networks),
    }


def arm_table(result: StudyResult) -> list[Field]:
    """The table that people read: columns in which no arm has anything to say are left out."""
    records = arm_records(result)

    def numbers(heading: str, key: str, text: Callable[[Any], str], keep: int, about: str) -> Field:
        column = [record[key] for record in records]
        return Field(heading, [text(value) for value in column], column, keep=keep, about=about)

    fields = [
        *_results(result),
        *(
            numbers(heading, heading, partial(number_text, heading), 1, "of the test set, mean over seeds")
            for heading in dict.fromkeys(h for arm in result.arms for one in arm.networks for h in one.headlines)
        ),
        numbers("val %", "val_acc", percent_text, 3, "accuracy on validation of the weights that were tested"),
        numbers("best val %", "best_val_acc", percent_text, 6, "accuracy on validation of the best epoch"),
        numbers("agree %", "agreement", percent_text, 8, "test samples with the teacher's prediction"),
        numbers("params", "parameters", count_text, 4, "of the network that is deployed"),
        numbers("MACs", "macs", count_text, 7, "multiply-accumulates per sample"),
        numbers("epochs", "epochs", str, 6, "of the final network"),
        numbers("images", "images", count_text, 7, "seen in training by the final network"),
        numbers("chain images", "chain_images", count_text, 7, "seen in training by it and all that taught it"),
        numbers("images asked", "queried_images", count_text, 8, "different images its teachers were asked about"),
        numbers("queries", "teacher_queries", count_text, 8, "samples its teachers were asked about"),
        numbers("extra params", "extra_parameters", count_text, 9, "trained with it, not deployed"),
        numbers("time", "seconds", time_text, 7, "wall time of one final network's training"),
        numbers("chain time", "chain_seconds", time_text, 9, "wall time with all that taught it"),
    ]
    return [field for field in fields if field.told]


def _results(result: StudyResult) -> list[Field]:
    labels = {arm.name: arrows(arm.label) for arm in result.arms}
    compared = {one.arm: one for one in reversed(result.comparisons)}  # of several references the first
    tests = [summarise([network.test_acc for network in arm.networks]) for arm in result.arms]
    against = [compared.get(arm.name) for arm in result.arms]
    return [
        Field("arm", list(labels.values())),
        Field("test %", [spread_text(test) for test in tests], [test.mean for test in tests],
              [interval_text(test.low, test.high) for test in tests], 0,
              "top-1 accuracy on the test set, mean and standard deviation over seeds"),
        Field("n", [str(test.n) for test in tests], [test.n for test in tests], keep=1, about="seeds"),
        Field("difference", [points(one.difference) if one else "-" for one in against],
              [one.difference if one else None for one in against],
              [_against(one, labels) if one else "" for one in against], 2, "in points, over shared seeds"),
        *_published_fields(result),
    ]  # fmt: skip


def _published_fields(result: StudyResult) -> list[Field]:
    columns = published_columns(result)
    fields = []
    for name, by_arm in columns.items():
        values = [by_arm.get(arm.name) for arm in result.arms]
        fields.append(Field(
            "published %" if len(columns) == 1 else f"{name} %",
            [percent_text(value.value) if value else "-" for value in values],
            [value.value if value else None for value in values],
            [f"{value.source}, {value.confidence}" if value else "" for value in values],
            2 if not fields else 5, "as published, with its source and how surely we know it",
        ))  # fmt: skip
    return fields


def _against(comparison: Comparison, labels: Mapping[str, str]) -> str:
    parts = (f"against {labels.get(comparison.reference, comparison.reference)}",
             interval_text(comparison.low, comparison.high), p_text(comparison))  # fmt: skip
    return "; ".join(part for part in parts if part)


def markdown(result: StudyResult) -> str:
    """The table with all that must not be read without: flags, claims, command."""
    parts = [f"# {result.title}\n"]
    parts += [f"{result.source}\n"] if result.source else []
    parts += [f"{result.dataset}; {result.protocol}" + ("; smoke run\n" if result.size == "smoke" else "\n")]
    parts += ["".join(f"> **{flag}**\n" for flag in result.flags)] if result.flags else []
    parts += [as_markdown(arm_table(result))]
    parts += ["".join(f"- {sentence}\n" for sentence in sentences(result))] if result.claims else []
    if paths := path_table(result):
        parts += [as_markdown(paths)]
    return "\n".join([*parts, f"```sh\n{result.command}\n```\n"])
