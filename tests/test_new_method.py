"""``scripts/new_method`` in a copy of the repository: its stubs fail, and pass once they are filled."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

ORACLE = """
    total = sum((a - b) ** 2 for own, other in zip(student, teacher) for a, b in zip(own, other))
    return total / (len(student) * len(student[0]))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The parts of the repository that a method touches."""
    root = tmp_path / "copy"
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("kdbench", "configs", "scripts", "tests/criteria"):
        shutil.copytree(REPO / folder, root / folder, ignore=ignored)
    shutil.copy(REPO / "pyproject.toml", root)
    for method in set((root / "configs/method").iterdir()) - {root / "configs/method/kd.yaml"}:
        method.unlink()  # a contract of few methods is collected faster
    return root


def new_method(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "scripts" / "new_method"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def failures(root: Path, *tests: str) -> set[str]:
    """The tests of the new method that fail, by name; a file that cannot be collected counts as one."""
    command = [sys.executable, "-m", "pytest", "-rfE", "-p", "no:cacheprovider", *tests, "-k", "logit_mse"]
    ran = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True,
                         check=False)  # fmt: skip
    assert ran.returncode in (0, 1), ran.stdout
    assert "passed" in ran.stdout, ran.stdout
    return set(re.findall(r"^(?:FAILED|ERROR) \S+::(\w+)", ran.stdout, re.MULTILINE))


def test_stubs_fail_the_contract_until_they_are_filled(copy: Path) -> None:
    tests = ("tests/criteria/test_contract.py", "tests/criteria/test_logit_mse.py")
    assert new_method(copy, "logit_mse").returncode == 0
    assert failures(copy, *tests) >= {
        "test_terms_are_finite_float32_scalars_with_the_weighted_names",
        "test_criterion_names_its_source_and_how_many_teachers_it_takes",
        "test_yaml_opens_with_its_description_and_stays_short",
        "test_logit_mse_equals_the_definition",
    }
    walk_through = (REPO / "CONTRIBUTING.md").read_text()
    for kind, path in (("python", "kdbench/criteria/logit_mse.py"), ("yaml", "configs/method/logit_mse.yaml")):
        (text,) = re.findall(rf"```{kind}\n(.*?)```", walk_through, re.DOTALL)
        (copy / path).write_text(text)
    test = copy / "tests/criteria/test_logit_mse.py"
    filled = test.read_text().replace("\n    raise NotImplementedError\n", ORACLE)
    test.write_text(filled.replace("LogitMse", "LogitMSE"))
    assert failures(copy, *tests) == set()


@pytest.mark.parametrize(("arguments", "line"), [
    (["kd"], "configs/method/kd.yaml, tests/criteria/test_kd.py: there already; choose another name"),
    (["base"], "kdbench/criteria/base.py: there already"),
    (["My-Loss"], "'My-Loss': lower case letters"),
    (["_connectors"], "'_connectors': lower case letters"),
    (["lambda"], "'lambda': lower case letters"),
    (["../x"], "'../x': lower case letters"),
    ([], "one name is expected"),
])  # fmt: skip
def test_a_name_that_cannot_be_is_refused_and_nothing_is_written(arguments: list[str], line: str, copy: Path) -> None:
    before = sorted(copy.rglob("*"))
    refused = new_method(copy, *arguments)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert line in refused.stderr
    assert sorted(copy.rglob("*")) == before
