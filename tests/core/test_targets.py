import sys
from pathlib import Path

import pytest
from torch import nn, optim

from kdbench.core.errors import ConfigError
from kdbench.core.targets import check_arguments, resolve_target
from kdbench.criteria.base import Criterion


@pytest.fixture
def package(tmp_path: Path, monkeypatch) -> str:
    folder = tmp_path / "zoo_of_mine"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "nets.py").write_text("from torch import nn\n\nclass Lion(nn.Module): ...\n\ndef lion(): ...\n")
    (folder / "needy.py").write_text("import a_package_that_is_absent\n")
    (folder / "broken.py").write_text("from torch import no_such_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "zoo_of_mine"
    for name in [name for name in sys.modules if name.startswith("zoo_of_mine")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("path", "base", "expected"),
    [
        ("torch.nn.Linear", nn.Module, nn.Linear),
        ("torch.optim.SGD", optim.Optimizer, optim.SGD),
        ("kdbench.criteria.base.Criterion", Criterion, Criterion),
    ],
)
def test_a_class_of_the_kind_is_found(path, base, expected):
    assert resolve_target(path, base=base) is expected


def test_a_trusted_package_is_opened(package):
    assert resolve_target(f"{package}.nets.Lion", base=nn.Module, trusted=[package]).__name__ == "Lion"


def test_a_package_that_is_not_trusted_is_not_even_imported(package):
    with pytest.raises(ConfigError, match=rf"'{package}' is not trusted.*opt in with 'trust=\[{package}\]'"):
        resolve_target(f"{package}.nets.Lion", base=nn.Module)
    assert package not in sys.modules


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("torch.load", "not a Module class"),
        ("torch.hub.load", "not a Module class"),
        ("torch.optim.SGD", "not a Module class"),
        ("torch.nn.Linaer", "no such name; did you mean 'Linear'"),
        ("torch.optim.SDG", "no such name$"),  # the near SGD is no module
        ("torch.nnn.Linear", "no module 'torch.nnn'; did you mean 'torch.nn'"),
        ("torch.nn.Linear.forward", "no module 'torch.nn.Linear'"),
        ("torchx.nn.Linear", "'torchx' is not trusted"),
        ("os.system", "'os' is not trusted"),
        ("Linear", "'Linear' is not trusted"),
        ("torch", "not trusted"),
        (".torch.nn.Linear", "'' is not trusted"),
        ("torch..nn.Linear", "no module"),
        ("", "_target_ is not set"),
        (None, "_target_ is not set; give the dotted path of a Module"),
    ],
)
def test_everything_else_is_refused(path, message):
    with pytest.raises(ConfigError, match=message):
        resolve_target(path, base=nn.Module)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("needy", "needs 'a_package_that_is_absent', which is not installed"),
        ("broken", "cannot be imported: cannot import name 'no_such_name'"),
        ("nest", "no module 'zoo_of_mine.nest'; did you mean 'zoo_of_mine.nets'"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told(package, module, message):
    with pytest.raises(ConfigError, match=message):
        resolve_target(f"{package}.{module}.Lion", base=nn.Module, trusted=[package])


def test_a_trusted_package_that_is_not_there_is_told():
    with pytest.raises(ConfigError, match="no module 'absent_zoo'; is its folder on PYTHONPATH"):
        resolve_target("absent_zoo.Lion", base=nn.Module, trusted=["absent_zoo"])


def test_arguments_are_bound_without_a_call():
    calls = []

    def build(width, *, depth=1):
        calls.append(width)

    check_arguments(build, {"width": 1, "depth": 2}, where="model x")
    check_arguments(lambda **options: None, {"anything": 1}, where="model x")
    with pytest.raises(ConfigError, match="model x: 'widht' is no argument of build; did you mean 'width'"):
        check_arguments(build, {"widht": 1}, where="model x")
    with pytest.raises(ConfigError, match="model x: build: missing a required argument: 'width'"):
        check_arguments(build, {"depth": 1}, where="model x")
    assert calls == []
