"""The space of a search, typed as Hydra's sweeps: ``choice``, ``range``, ``interval``, with ``tag(log, ...)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, RangeSweep
from hydra.errors import HydraException

from kdbench.config.compose import Composer
from kdbench.core.errors import ConfigError, Problems


@dataclass(frozen=True)
class Dimension:
    """One key that is searched.

    Attributes:
        key: As typed, e.g. ``method.temperature``.
        choices: What it can be, as typed; empty for a range of numbers.
        low: Smallest number.
        high: Largest number, which can be drawn.
        step: Between numbers; nothing for all between.
        log: Whether ratios count, not differences.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that stand for all when a search is checked: every choice, or the ends."""
        return self.choices or (self.low, self.high)

    def setting(self, value: Any) -> str:
        """The override that sets it."""
        return f"{self.key}={round(value, 12) if isinstance(value, float) else value}"


def split_space(composer: Composer, overrides: Sequence[str]) -> tuple[list[str], list[Dimension]]:
    """The overrides that are fixed, and the dimensions; a later override of a key replaces an earlier one.

    Raises:
        ConfigError: Something is neither; all of it, one line each.
    """
    fixed: dict[str, str] = {}
    space: dict[str, Dimension] = {}
    problems = Problems()
    for text in overrides:
        with problems.catching():
            override = composer.parse(text)
            key = override.key_or_group
            fixed.pop(key, None)
            space.pop(key, None)
            if override.is_sweep_override():
                space[key] = _dimension(key, text, override)
            else:
                fixed[key] = text
    problems.check()
    return list(fixed.values()), list(space.values())


def _dimension(key: str, text: str, override: Any) -> Dimension:
    sweep = override.value()
    tags = getattr(sweep, "tags", None) or set()
    if unknown := tags - {"log"}:
        raise ConfigError(f"{text}: tag {', '.join(sorted(unknown))} is unknown; there is: log")
    if "log" in tags and not isinstance(sweep, IntervalSweep):
        raise ConfigError(f"{text}: a log scale needs an interval: tag(log,interval(LOW,HIGH))")
    if isinstance(sweep, IntervalSweep):
        low, high = sweep.start, sweep.end
        assert low is not None
        assert high is not None
        if not low < high or ("log" in tags and low <= 0):
            raise ConfigError(f"{text}: the first number must be the smaller one{', and greater than 0' * bool(tags)}")
        return Dimension(key, low=low, high=high, log=bool(tags))
    try:
        values = list(override.sweep_iterator())
        texts = list(override.sweep_string_iterator())
    except HydraException as error:
        raise ConfigError(f"{text}: {error}") from error
    if not values:
        raise ConfigError(f"{text}: matches nothing")
    if isinstance(sweep, RangeSweep) and len(values) > 1:
        numbers = [float(word) if "." in word or "e" in word else int(word) for word in texts]
        return Dimension(key, low=min(numbers), high=max(numbers), step=abs(sweep.step))
    return Dimension(key, choices=tuple(texts))
