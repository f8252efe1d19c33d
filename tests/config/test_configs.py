"""Every YAML composes, has a first line that says what it is, and every number in it is of a type that can be typed."""

from pathlib import Path

import pytest

from kdbench.config.checks import coerce
from kdbench.config.compose import Composer
from kdbench.config.jobs import make_jobs
from kdbench.config.source import config_root, node_name

COMPOSER, SEARCH = Composer(), Composer(config_name="search")
FILES = sorted(path for path in config_root().glob("*/*.yaml") if path.parent.name != "model" and path.stem[0] != "_")
MODELS = sorted(path for path in (config_root() / "model").glob("*.yaml") if path.stem != "module")


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_option_composes(file: Path) -> None:
    group, option = file.parent.name, file.stem
    chosen = f"{group}=[{option}]" if group in ("logger", "eval") else f"{group}={option}"
    job, *_ = make_jobs(SEARCH if group == "search" else COMPOSER, [chosen], multirun=True)
    assert job.config[group]


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("file", MODELS, ids=lambda file: file.stem)
def test_model_serves_every_role(file: Path, role: str) -> None:
    (job,) = make_jobs(COMPOSER, [f"{role}={file.stem}"])
    assert job.config[role]["name"] == node_name(file.stem)
    (job,) = make_jobs(COMPOSER, [f"assistants=[{file.stem}]"])
    assert job.config["assistants"][node_name(file.stem)]["_target_"]


@pytest.mark.parametrize("file", [*FILES, *MODELS], ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_option_says_what_it_is(file: Path) -> None:
    lines = [line for line in file.read_text().splitlines() if "@package" not in line]
    assert lines[0].startswith("# ")


@pytest.mark.parametrize(
    ("default", "value", "taken"),
    [(1.0, 2, 2.0), (None, "x", "x"), ([], [1], [1]), ({}, {"a": 1}, {"a": 1}), ("a", "b", "b"), (1, "${x}", "${x}")],
)
def test_a_value_of_the_keys_kind_is_taken(default: object, value: object, taken: object) -> None:
    assert coerce("key", default, value) == (taken, None)


@pytest.mark.parametrize(("default", "value"), [(1, 1.5), (1, True), (True, 1), ("a", 1), ([], "a"), (1.0, None)])
def test_a_value_of_another_kind_is_refused(default: object, value: object) -> None:
    assert coerce("key", default, value)[1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [0.5, float("nan")], {"end": float("-inf")}])
def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(value: object) -> None:
    assert str(coerce("method.weights.kd", 1.0, value)[1]).endswith("not a finite number")
