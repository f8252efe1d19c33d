"""Every command of the README and the walk-through of CONTRIBUTING are run."""

import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdbench.cli import main
from tests.conftest import REPO
from tests.toy import SHORT

TINY = ("trainer.max_epochs=1", "trainer.limit_train_batches=2")
WITHOUT_BUDGET = (
    "models",
    "methods",
    "datasets",
    "studies",
    "taps",
    "store",
    "eval",
    "export",
    "data",
    "report",
    "--help",
    "--cfg",
)


def commands() -> list[str]:
    """Lines of the README's shell blocks that begin with ``kdbench``, split at semicolons, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
    lines = [line.split("  #")[0] for block in blocks for line in block.splitlines() if line.startswith("kdbench")]
    return [part.strip() for line in lines for part in line.split(" ; ")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("outputs")
    assert main([*SHORT, "teacher=none", "student=plain4", f"paths.outputs={outputs}"]) == 0
    return outputs


@pytest.mark.parametrize("command", commands())
def test_readme_command_works(command: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "fashion_mnist" in command and not Path("/usr/share/datasets/fashion-mnist").exists():
        pytest.skip("Fashion-MNIST is not installed")
    monkeypatch.setenv("KDBENCH_OUTPUTS", str(store))
    (entry,) = [path for path in store.glob("store/??/*") if '"plain4"' in (path / "recipe.json").read_text()][:1]
    arguments = shlex.split(command.replace("3fa9c1", entry.name[:8]))[1:]
    if not arguments or arguments[0] not in WITHOUT_BUDGET:
        arguments += TINY
    assert main(arguments) == 0


def test_readme_has_the_commands_of_every_kind() -> None:
    text = "\n".join(commands())
    assert all(word in text for word in ("-m ", "hops.", "dry_run", "store/", "eval ", "timm/", "logger"))


def test_the_walk_through_of_contributing_makes_a_method(
    tmp_path: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (REPO / "CONTRIBUTING.md").read_text()
    (code,), (config,) = (re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("python", "yaml"))
    module: Any = types.ModuleType("kdbench.criteria.logit_mse")
    exec(code, vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.LogitMSE.__module__ = module.__name__
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "logit_mse.yaml").write_text(config)
    assert yaml.safe_load(config)["criteria"]["logit_mse"]["version"] == 1
    status = main(["--config-dir", str(tmp_path), *SHORT, "teacher=plain4", "method=logit_mse"])
    assert status == 0, capsys.readouterr().err
