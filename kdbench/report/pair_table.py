"""Methods by pairs, as papers print them: ours with its spread, the published value below."""

from __future__ import annotations

from kdbench.report.arms import published_of
from kdbench.report.results import StudyResult
from kdbench.report.summary import summarise
from kdbench.report.tables import Field
from kdbench.report.words import spread_text


def pair_table(result: StudyResult) -> list[Field]:
    """A row per method and a column per pair; ``N/A`` with its reason where a method cannot serve a pair.

    Returns:
        No fields for a study that runs over no pairs.
    """
    names = [*(arm.name for arm in result.arms), *result.unsuitable]
    methods = list(dict.fromkeys(name.partition(":")[0] for name in names))
    if not result.pairs:
        return []
    columns = [[_cell(result, method, pair) for method in methods] for pair in result.pairs]
    return [
        Field("method", methods),
        *(
            Field(" \u2192 ".join(pair), [text for text, _, _ in cells], [value for _, value, _ in cells],
                  [note for _, _, note in cells], about="test accuracy in percent; published values below")
            for pair, cells in zip(result.pairs, columns, strict=True)
        ),
    ]  # fmt: skip


def _cell(result: StudyResult, method: str, pair: tuple[str, str]) -> tuple[str, float | None, str]:
    """Text, number and note of one method and pair; networks that nobody teaches stand in each of their pairs."""
    teacher, student = pair
    if reason := result.unsuitable.get(f"{method}: {teacher} -> {student}"):
        return "N/A", None, reason
    for chain in (pair, (student,), (teacher,)):
        arm = next((arm for arm in result.arms if arm.key == method and arm.chain == chain), None)
        if arm is not None:
            test, printed = summarise([network.test_acc for network in arm.networks]), published_of(result, arm)
            return spread_text(test), test.mean, f"{printed.value:.2f} {printed.column}" if printed else ""
    return "-", None, ""
