"""From the text of a ``_target_`` to a class: of the expected kind, under a root that is trusted, and nothing else.

A dotted path in a YAML is code. A list of allowed prefixes is no boundary (``torch.load`` stands under ``torch``): the
root is checked before anything is imported, and what is found must be a class of the kind that was asked for.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar

from kdbench.core.errors import ConfigError, nearest

ROOTS = ("kdbench", "torch", "timm", "torchvision")
Kind = TypeVar("Kind")


def resolve_target(path: str | None, *, base: type[Kind], trusted: Sequence[str] = ()) -> type[Kind]:
    """The class at the dotted ``path``.

    Args:
        path: ``package.module.Class``; ``None``, as in a YAML that leaves it to the user, is an error.
        base: What the class must derive from, e.g. ``nn.Module``, ``Optimizer``, ``Criterion``.
        trusted: Top-level packages that the user opts in to, beside those in ``ROOTS``.

    Raises:
        ConfigError: The root is not trusted (nothing was imported), there is no such module or class, or it is of
            another kind.
    """
    if not path:
        raise ConfigError(f"_target_ is not set; give the dotted path of a {base.__name__}, e.g. mypackage.nets.MyNet")
    module_path, _, name = path.rpartition(".")
    root = path.partition(".")[0]
    if not module_path or root not in (*ROOTS, *trusted):
        raise ConfigError(
            f"_target_={path}: {root!r} is not trusted; a class below {', '.join((*ROOTS, *trusted))} is, "
            f"or opt in with 'trust=[{root}]' if you know its code"
        )
    module = _import(module_path, path)
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        kind = "no such name" if found is None else f"not a {base.__name__} class"
        raise ConfigError(f"_target_={path}: {kind}{nearest(name, _classes(module, base))}")
    return found


def check_arguments(target: Callable[..., Any], arguments: Mapping[str, Any], *, where: str) -> None:
    """Binds ``arguments`` to the signature of ``target`` without calling it.

    Args:
        target: A class or function.
        arguments: What it will be called with, by name.
        where: Begins the error's line, e.g. ``model plain2``.

    Raises:
        ConfigError: An argument is unknown (the message names the nearest) or missing.
    """
    parameters = inspect.signature(target).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for key in arguments:
            if key not in parameters:
                raise ConfigError(f"{where}: {key!r} is no argument of {target.__name__}{nearest(key, parameters)}")
    try:
        inspect.signature(target).bind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{where}: {target.__name__}: {error}") from error


def _import(module_path: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(module_path)
    except ModuleNotFoundError as error:
        missing = error.name or module_path
        if not f"{module_path}.".startswith(f"{missing}."):
            raise ConfigError(f"_target_={path}: {module_path} needs {missing!r}, which is not installed") from error
        hint = "; is its folder on PYTHONPATH?"
        if parent := missing.rpartition(".")[0]:
            hint = nearest(missing, [f"{parent}.{name}" for name in _submodules(parent)])
        raise ConfigError(f"_target_={path}: no module {missing!r}{hint}") from error
    except ImportError as error:
        raise ConfigError(f"_target_={path}: {module_path} cannot be imported: {error}") from error


def _submodules(package: str) -> list[str]:
    return [found.name for found in pkgutil.iter_modules(getattr(importlib.import_module(package), "__path__", []))]


def _classes(module: ModuleType, base: type) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)]
