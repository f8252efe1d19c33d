"""Interpolations of a composed config, resolved in plain Python: a sweep has thousands of jobs and few compositions."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

REFERENCE = re.compile(r"\$\{([A-Za-z_][\w./]*)\}")  # ${method.temperature}: what stands elsewhere
MISSING = "???"


class NotPlainError(Exception):
    """The config holds what only OmegaConf can resolve."""


class Template:
    """A composed config as plain data, from which those of jobs are made: what no value touches, they share.

    Args:
        config: With references left in it.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self._open = {key for key, value in config.items() if _refers(value)}

    def with_values(self, values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        """The config with values at dotted keys, in which every ``${a.b}`` is the value that stands at ``a.b``.

        Raises:
            NotPlainError: Something else than such a reference is written with ``${``, is missing, or leads nowhere; or
                the way to a key leads through a reference or a list.
        """
        config = dict(self.config)
        unresolved = set(self._open)
        for key, value in values:
            _set(config, key, value)
            if _refers(value):
                unresolved.add(key.split(".")[0])
        return config | {key: _resolve(config[key], config, ()) for key in unresolved}


def _refers(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_refers, value.values()))
    if isinstance(value, list):
        return any(map(_refers, value))
    return isinstance(value, str) and ("${" in value or value == MISSING)


def _set(config: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node = config
    for part in parents:
        inner = node.get(part, {})
        if not isinstance(inner, dict):
            raise NotPlainError(key)
        node[part] = dict(inner)  # the original is shared
        node = node[part]
    node[last] = value


def _resolve(value: Any, root: Mapping[str, Any], trail: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _resolve(inner, root, trail) for key, inner in value.items()}
    if isinstance(value, list):
        return [_resolve(inner, root, trail) for inner in value]
    if not _refers(value):
        return value
    references = REFERENCE.findall(value)
    if value == MISSING or set(references) & set(trail) or "${" in REFERENCE.sub("", value):
        raise NotPlainError(value)
    if REFERENCE.fullmatch(value):
        return _resolve(_at(root, references[0]), root, (*trail, references[0]))
    return REFERENCE.sub(lambda found: _text(_resolve(_at(root, found[1]), root, (*trail, found[1]))), value)


def _text(value: Any) -> str:
    """A part of a longer value, such as the folder in ``${paths.outputs}/jobs``."""
    if not isinstance(value, str):
        raise NotPlainError(value)
    return value


def _at(root: Mapping[str, Any], path: str) -> Any:
    node: Any = root
    for part in path.split("."):
        if isinstance(node, str) and (found := REFERENCE.fullmatch(node)):
            node = _at(root, found[1])
        if not isinstance(node, Mapping) or part not in node:
            raise NotPlainError(path)
        node = node[part]
    return node
