"""Weights of loss terms: a number, or a function of the training's progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from kdbench.core.errors import ConfigError, nearest
from kdbench.core.types import Progress

_KEYS = ("start", "end", "from", "until", "curve")
_CURVES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda part: part,
    "gaussian": lambda part: math.exp(-5 * (1 - part) ** 2),
}


class Schedule(Protocol):
    """A weight over the course of a training."""

    def __call__(self, progress: Progress) -> float:
        """The weight at ``progress``, dimensionless."""
        ...


def make_schedule(name: str, value: Any) -> Schedule:
    r"""A weight from its YAML: a number, or ``{start: 0, end: 1, from: 0, until: 20}``.

    .. math:: w(e) = w_0 + (w_1 - w_0) \, c(p), \qquad p = \mathrm{clip}\bigl((e - e_0) / (e_1 - e_0), 0, 1\bigr)

    with ``start`` :math:`w_0`, ``end`` :math:`w_1`, and ``from`` :math:`e_0`, ``until`` :math:`e_1` in epochs
    (``from`` is 0 where left out). ``curve`` is ``linear``, :math:`c(p) = p`, where left out; or ``gaussian``,
    :math:`c(p) = \exp(-5 (1 - p)^2)`, which begins near 0.007.

    Source: the Gaussian ramp, Laine and Aila 2016, arXiv:1610.02242, Sec. 2.1.

    Raises:
        ConfigError: Not a number, or a key is unknown or missing.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        constant = float(value)
        return lambda progress: constant
    if not isinstance(value, Mapping):
        raise ConfigError(f"weights.{name}={value!r}: a number or {{start, end, until}} is expected")
    for key in value:
        if key not in _KEYS:
            raise ConfigError(f"weights.{name}.{key}: unknown{nearest(str(key), _KEYS)}")
    if missing := [key for key in ("start", "end", "until") if key not in value]:
        raise ConfigError(f"weights.{name}: a schedule needs {', '.join(missing)} as well")
    start, end = float(value["start"]), float(value["end"])
    begin, until = float(value.get("from", 0)), float(value["until"])
    if until <= begin:
        raise ConfigError(f"weights.{name}: until={until:g} must be greater than from={begin:g} (epochs)")
    if (curve := value.get("curve", "linear")) not in _CURVES:
        raise ConfigError(f"weights.{name}.curve={curve}: unknown{nearest(str(curve), _CURVES)}")
    along = _CURVES[curve]
    return lambda progress: (
        start + (end - start) * along(min(max((progress.epoch - begin) / (until - begin), 0.0), 1.0))
    )
