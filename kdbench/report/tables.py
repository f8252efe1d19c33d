"""Tables of results: one form that the terminal, Markdown, CSV and the page share."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kdbench.metrics.distillation_score import ALPHAS
from kdbench.report.console import Column, count_text, percent_text, time_text
from kdbench.report.flags import chain_cost
from kdbench.report.queries import best_paths, path_groups
from kdbench.report.results import Arm, Network, Published, StudyResult, Summary
from kdbench.report.scores import against_parent, against_root
from kdbench.report.summary import summarise
from kdbench.report.words import arrows, interval_text, p_text, plain, points, sentences, spread_text


@dataclass(frozen=True)
class Field:
    """One column of a table.

    Attributes:
        heading: A word or two.
        texts: What a row shows.
        values: What rows are sorted by; ``None`` goes last. The texts, where there are no numbers.
        notes: A second, smaller line of each row.
        keep: A narrow terminal shows the columns of the smallest first.
        about: What the heading means.
    """

    heading: str
    texts: list[str]
    values: Sequence[float | None] | None = None
    notes: list[str] | None = None
    keep: int = 0
    about: str = ""

    @property
    def told(self) -> bool:
        """Whether any row has something to say."""
        return any(text not in ("", "-") for text in self.texts)


def as_columns(fields: Sequence[Field]) -> list[Column]:
    """For the terminal, in letters that every terminal has."""
    return [Column(field.heading, [plain(text) for text in field.texts], field.keep,
                   "left" if field.values is None else "right") for field in fields]  # fmt: skip


def as_markdown(fields: Sequence[Field]) -> str:
    """For a README or an issue."""
    rows = zip(*([_cell(text, note) for text, note in zip(field.texts, field.notes or [""] * len(field.texts),
                                                          strict=True)] for field in fields), strict=True)  # fmt: skip
    rule = ["---" if field.values is None else "--:" for field in fields]
    lines = [[field.heading for field in fields], rule, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _cell(text: str, note: str) -> str:
    return (f"{text} ({note})" if note else text).replace("|", "\\|")


def arm_records(result: StudyResult) -> list[dict[str, Any]]:
    """One flat record per arm, every number as it is: the rows of ``table.csv``."""
    compared = {comparison.arm: comparison for comparison in result.comparisons}
    known = {network.digest: network for network in result.networks}
    records = []
    for arm in result.arms:
        first, test, against = arm.networks[0], _mean(arm, "test_acc"), compared.get(arm.name)
        value = published_of(result, arm)
        assert test is not None
        records.append({
            "arm": arm.name, "chain": " -> ".join(arm.chain), "method": arm.method, "dataset": first.dataset,
            "protocol": first.protocol, "select_on": first.select_on,
            "seeds": " ".join(str(network.seed) for network in arm.networks), "n": test.n, "test_acc": test.mean,
            "test_acc_sd": test.sd, "test_acc_low": test.low, "test_acc_high": test.high,
            **{key: summary and summary.mean for key in ("val_acc", "best_val_acc", "agreement")
               for summary in [_mean(arm, key)]},
            "reference": against and against.reference, "difference": against and against.difference,
            "difference_low": against and against.low, "difference_high": against and against.high,
            "p": against and against.p, "p_corrected": against and against.p_corrected,
            "correction": against and against.correction, "published": value and value.value,
            "published_sd": value and value.sd, "published_source": value and value.source,
            "published_confidence": value and value.confidence,
            **{key: getattr(first, key) for key in ("parameters", "macs", "size_bytes", "epochs", "images",
                                                    "teacher_queries", "extra_parameters")},
            "chain_images": chain_cost(first, known, "images"), "seconds": _required(arm, "seconds"),
            "chain_seconds": sum(chain_cost(network, known, "seconds") for network in arm.networks) / test.n,
        })  # fmt: skip
    return records


def as_csv(records: Sequence[dict[str, Any]]) -> str:
    """Records of equal keys; what is unknown is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


def published_of(result: StudyResult, arm: Arm) -> Published | None:
    """The published counterpart of an arm; never beside a smoke run."""
    return next((value for value in result.published if value.arm == arm.name and result.size == "full"), None)


def _mean(arm: Arm, key: str) -> Summary | None:
    values = [value for network in arm.networks if (value := getattr(network, key)) is not None]
    return summarise(values) if len(values) == len(arm.networks) else None


def _required(arm: Arm, key: str) -> float:
    return sum(getattr(network, key) for network in arm.networks) / len(arm.networks)


def arm_table(result: StudyResult) -> list[Field]:
    """Results of all arms, each number with its seeds, its cost and its published counterpart."""
    records = arm_records(result)
    labels = {arm.name: arrows(arm.label) for arm in result.arms}
    compared = {comparison.arm: comparison for comparison in result.comparisons}
    tests = [summary for arm in result.arms if (summary := _mean(arm, "test_acc"))]
    against = [compared.get(arm.name) for arm in result.arms]
    values = [published_of(result, arm) for arm in result.arms]

    def numbers(heading: str, key: str, text: Callable[[Any], str], keep: int, about: str) -> Field:
        column = [record[key] for record in records]
        return Field(heading, [text(value) for value in column], column, keep=keep, about=about)

    fields = [
        Field("arm", list(labels.values())),
        Field("test %", [spread_text(test) for test in tests], [test.mean for test in tests],
              [interval_text(test.low, test.high) for test in tests], 0,
              "top-1 accuracy on the test set, mean and standard deviation over seeds"),
        numbers("n", "n", str, 1, "seeds"),
        Field("difference", [points(one.difference) if one else "-" for one in against],
              [one.difference if one else None for one in against],
              [_against(one, labels) if one else "" for one in against], 2, "in points, over shared seeds"),
        Field("published %", [percent_text(value and value.value) for value in values],
              [value and value.value for value in values],
              [f"{value.source}, {value.confidence}" if value else "" for value in values], 2,
              "as published, with its source and how surely we know it"),
        numbers("val %", "val_acc", percent_text, 3, "accuracy on validation of the weights that were tested"),
        numbers("best val %", "best_val_acc", percent_text, 6, "accuracy on validation of the best epoch"),
        numbers("agree %", "agreement", percent_text, 8, "test samples with the teacher's prediction"),
        numbers("params", "parameters", count_text, 4, "of the network that is deployed"),
        numbers("MACs", "macs", count_text, 7, "multiply-accumulates per sample"),
        numbers("epochs", "epochs", str, 6, "of the final network"),
        numbers("images", "images", count_text, 7, "seen in training by the final network"),
        numbers("chain images", "chain_images", count_text, 7, "seen in training by it and all that taught it"),
        numbers("queries", "teacher_queries", count_text, 8, "samples shown to its teachers"),
        numbers("extra params", "extra_parameters", count_text, 9, "trained with it, not deployed"),
        numbers("time", "seconds", time_text, 7, "wall time of one final network's training"),
        numbers("chain time", "chain_seconds", time_text, 9, "wall time with all that taught it"),
    ]  # fmt: skip
    return [field for field in fields if field.told]


def _against(comparison: Any, labels: dict[str, str]) -> str:
    parts = (interval_text(comparison.low, comparison.high), p_text(comparison))
    return f"against {labels.get(comparison.reference, comparison.reference)}; " + "; ".join(p for p in parts if p)


def network_table(networks: Iterable[Network]) -> list[Field]:
    """Every network, with the digest that names it in the store."""
    rows = list(networks)

    def numbers(heading: str, key: str, text: Callable[[Any], str]) -> Field:
        column = [getattr(network, key) for network in rows]
        return Field(heading, [text(value) for value in column], column)

    fields = [
        Field("network", [" \u2192 ".join(one.chain) for one in rows], notes=[one.digest for one in rows]),
        Field("role", [network.role for network in rows]),
        numbers("seed", "seed", str),
        Field("method", [network.method or "-" for network in rows]),
        numbers("test %", "test_acc", percent_text),
        numbers("val %", "val_acc", percent_text),
        numbers("best val %", "best_val_acc", percent_text),
        numbers("agree %", "agreement", percent_text),
        numbers("params", "parameters", count_text),
        numbers("bytes", "size_bytes", count_text),
        numbers("epochs", "epochs", str),
        numbers("images", "images", count_text),
        numbers("queries", "teacher_queries", count_text),
        numbers("time", "seconds", time_text),
    ]
    return [field for field in fields if field.told]


def path_table(result: StudyResult) -> list[Field]:
    """The best path with at most k assistants; no fields where there are no paths to choose from."""
    groups = path_groups(result)
    ends = [one.first.name for one in groups]
    end = min((one.first for one in groups if ends.count(one.first.name) > 1), key=lambda one: one.parameters,
              default=None)  # fmt: skip
    if end is None:
        return []
    answers = best_paths(groups, end.name)
    accuracies = [one.accuracy for _, one in answers]
    return [
        Field("assistants", [f"at most {k}" for k, _ in answers]),
        Field("best path", [" \u2192 ".join(one.first.chain) for _, one in answers]),
        Field("chosen by %", [f"{one.selection_accuracy:.2f}" for _, one in answers],
              [one.selection_accuracy for _, one in answers], about="validation; the test set if nothing was held out"),
        Field("test %", [spread_text(one) for one in accuracies], [one.mean for one in accuracies],
              [f"n={one.n}" for one in accuracies]),
    ]  # fmt: skip


def score_table(result: StudyResult) -> list[Field]:
    """Distillation scores against the root and the parent, best first at alpha = 0.5."""
    scored = sorted(against_root(result), key=lambda one: one.score(0.5))
    parents = {one.group.first.variant: one for one in against_parent(result)}
    above = [parents[one.group.first.variant].score(0.5) for one in scored]
    return [
        Field("network", [one.label for one in scored]),
        Field("size %", [f"{100 * one.size:.2f}" for one in scored], [one.size for one in scored],
              about="parameters, relative to the first network of the chain"),
        *(Field(f"score, alpha {alpha:g}", [f"{one.score(alpha):.4f}" for one in scored],
                [one.score(alpha) for one in scored], about="against the first network of the chain; lower is better")
          for alpha in ALPHAS),
        Field("against parent", [f"{score:.4f}" for score in above], above,
              about="alpha 0.5, against the network that taught it"),
    ] if scored else []  # fmt: skip


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
