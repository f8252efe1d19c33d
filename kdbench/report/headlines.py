"""The one number of each evaluation that tables show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def headlines(records: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """By heading, ``pgd acc``, what the evaluation itself calls its headline.

    Args:
        records: Of evaluations, as the store keeps them.
    """
    return {f"{one['evaluation']} {one['headline']}": one["result"][one["headline"]] for one in records
            if one["headline"]}  # fmt: skip
