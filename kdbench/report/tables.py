"""Tables of results: one form that the terminal, Markdown, CSV and the page share."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kdbench.metrics.distillation_score import ALPHAS
from kdbench.report.console import Column, count_text, percent_text, time_text
from kdbench.report.queries import best_paths, path_groups
from kdbench.report.results import Network, StudyResult
from kdbench.report.scores import against_parent, against_root
from kdbench.report.words import plain, spread_text


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


def as_csv(records: Sequence[dict[str, Any]]) -> str:
    """Records of equal keys; what is unknown is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


def network_table(networks: Iterable[Network]) -> list[Field]:
    """Every network, with the digest that names it in the store."""
    rows = list(networks)

    def numbers(heading: str, key: str, text: Callable[[Any], str]) -> Field:
        column = [getattr(network, key) for network in rows]
        return Field(heading, [text(value) for value in column], column)

    fields = [
        Field("network", [" \u2192 ".join(one.chain) for one in rows], notes=[one.id8 for one in rows]),
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
        numbers("images asked", "queried_images", count_text),
        numbers("queries", "teacher_queries", count_text),
        numbers("time", "seconds", time_text),
        Field("digest", [one.digest for one in rows]),
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
    parents = {one.group.first.variant: one.score(0.5) for one in against_parent(result)}
    above = [parents.get(one.group.first.variant) for one in scored]
    return [
        Field("network", [one.label for one in scored]),
        Field("size %", [f"{100 * one.size:.2f}" for one in scored], [one.size for one in scored],
              about="parameters, relative to the first network of the chain"),
        *(Field(f"score, alpha {alpha:g}", [f"{one.score(alpha):.4f}" for one in scored],
                [one.score(alpha) for one in scored], about="against the first network of the chain; lower is better")
          for alpha in ALPHAS),
        Field("against parent", ["-" if score is None else f"{score:.4f}" for score in above], above,
              about="alpha 0.5, against the network that taught it"),
    ] if scored else []  # fmt: skip
