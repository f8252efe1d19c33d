import json
from typing import Any

import pytest

from tests.golden.curves import FOLDER, METHODS, curve, may_change


@pytest.mark.parametrize("method", METHODS)
def test_numbers_of_a_method_are_what_they_were(method: str) -> None:
    file = FOLDER / f"{method}.json"
    assert file.exists(), f"a new method: write its curve with python -m tests.golden.curves {method}"
    stored, now = json.loads(file.read_text()), curve(method)
    assert now["versions"] == stored["versions"], f"a new version: python -m tests.golden.curves {method}"
    for before, after in zip(stored["rows"], now["rows"], strict=True):
        assert after == pytest.approx(before, rel=2e-3, abs=1e-6), "its numbers moved: bump the criterion's version"


def test_no_curve_is_left_of_a_method_that_is_gone() -> None:
    assert {file.stem for file in FOLDER.glob("*.json")} == set(METHODS)


def test_a_curve_is_replaced_only_with_a_new_version_and_a_line_under_numerics() -> None:
    def stored(version: int, loss: float) -> dict[str, Any]:
        return {"versions": {"kd": version}, "rows": [{"loss": loss}]}

    changelog = "## [2]\n### Added\n- kd\n### Numerics\n- nothing\n## [1]\n### Numerics\n- first\n"
    assert may_change("kd", stored(1, 1.0), stored(1, 1.0), changelog) is None
    assert "no version" in (may_change("kd", stored(1, 1.0), stored(1, 2.0), changelog) or "")
    assert "Numerics" in (may_change("kd", stored(1, 1.0), stored(2, 2.0), changelog) or "")
    assert may_change("kd", stored(1, 1.0), stored(2, 2.0), changelog.replace("nothing", "kd: halved")) is None
