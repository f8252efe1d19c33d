"""Published values beside ours: who printed which figure for which arm."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdbench.core.errors import ConfigError, nearest
from kdbench.report.results import Arm, Published

PUBLISHED = Path(__file__).parent / "published"
CHAINS = ("scratch", "kd", "takd")  # methods that sources tell apart by the chain alone
DOUBTS = ("disagrees_with_RepDistiller", "suspected_misprint")  # variants that say how far a figure can be trusted


def read_published(name: str) -> list[dict[str, str]]:
    """The rows of one file of published values, as they were transcribed.

    Raises:
        ConfigError: There is no such file.
    """
    path = PUBLISHED / name
    if not path.is_file():
        known = sorted(file.name for file in PUBLISHED.glob("*.csv"))
        raise ConfigError(f"study.published.file={name}: unknown{nearest(name, known)}")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def published_values(dataset: str, arms: Sequence[Arm], study: Mapping[str, Any]) -> list[Published]:
    """The published accuracies on this dataset; none for a smoke run, whose data are not the published ones.

    ``published`` of a study names one source or several, each ``{file, studies}`` and, where not all of it is meant,
    ``methods`` and ``variants``; ``as`` renames its column. A figure that a source repeats is given once.
    """
    if not study["published"] or study["size"] == "smoke":
        return []
    given = study["published"]
    found: dict[tuple[str | None, str, str, float], Published] = {}
    for source in given if isinstance(given, list) else [given]:
        for row in _rows(source, dataset):
            chain = _chain(row)
            arm = next(
                (arm.name for arm in arms if arm.chain == chain and _same_method(arm, row["method"], study)), None
            )
            value = Published(
                arm=arm,
                label=f"{' -> '.join(chain)} ({row['method']})",
                value=float(row["value"]),
                sd=float(row["std"]) if row["std"] else None,
                source=row["source"],
                confidence=", ".join([row["confidence"], *(doubt for doubt in DOUBTS if doubt == row["variant"])]),
                column=source.get("as", row["study"].split("/")[0]),
            )
            found.setdefault((arm, value.label, value.column, value.value), value)
    return list(found.values())


def _rows(source: Mapping[str, Any], dataset: str) -> Iterator[dict[str, str]]:
    for row in read_published(source["file"]):
        if (
            row["study"].split("/")[-1] in source["studies"]
            and row["metric"] == "top1"
            and row["dataset"].lower().replace("-", "") == dataset
            and row["method"] in source.get("methods", [row["method"]])
            and row["variant"] in source.get("variants", [row["variant"]])
        ):
            yield row


def _chain(row: Mapping[str, str]) -> tuple[str, ...]:
    if row["method"] == "teacher_alone":
        return (row["teacher"] or row["student"],)
    assistants = row["variant"].partition("assistants=[")[2].partition("]")[0]
    return (*filter(None, [row["teacher"] if row["method"] != "scratch" else ""]), *filter(None, assistants.split(",")),
            row["student"])  # fmt: skip


def _same_method(arm: Arm, method: str, study: Mapping[str, Any]) -> bool:
    """Chains of plain distillation are called ``kd`` or ``takd`` by their length; other methods by their name."""
    content = study["arms"][arm.key] or {}
    if method in CHAINS:
        return not (content.get("set") or content.get("epochs_times"))
    return method in content.get("published_as", [arm.key])
