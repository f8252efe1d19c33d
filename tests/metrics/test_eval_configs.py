import inspect
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from kdbench.core.targets import resolve_target
from kdbench.metrics.base import Evaluation

FILES = sorted((Path(__file__).parents[2] / "configs/eval").glob("*.yaml"))
CASES = [pytest.param(path, id=path.stem) for path in FILES]


@pytest.mark.parametrize("path", CASES)
def test_yaml_is_packaged_under_its_own_name_and_described(path):
    lines = path.read_text().splitlines()
    assert lines[0] == f"# @package eval.{path.stem}"
    assert lines[1].startswith("# ")


@pytest.mark.parametrize("path", CASES)
def test_yaml_gives_every_option_with_its_default(path):
    config: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    target: type[Evaluation] = resolve_target(config.pop("_target_"), base=Evaluation)
    assert config.pop("version") == target.version
    defaults = {key: p.default for key, p in inspect.signature(target).parameters.items()}
    assert config == {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
    if path.stem != "autoattack":  # its package is not there; tests/metrics/test_autoattack.py stands in for it
        target(**config)
