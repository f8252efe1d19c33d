"""Checks of a criterion's options, so that a wrong one is an error before anything starts."""

from collections.abc import Iterable

from kdbench.core.errors import ConfigError, nearest


def check_choice(option: str, value: object, allowed: Iterable[str]) -> None:
    """Refuses a ``value`` that is not among ``allowed``.

    Raises:
        ConfigError: It names the option, the value, and the nearest choice or all of them.
    """
    choices = tuple(allowed)
    if value not in choices:
        raise ConfigError(f"{option}={value}: unknown{nearest(str(value), choices)}")


def check_number(option: str, value: object, *, above: float = float("-inf"), below: float = float("inf")) -> None:
    """Refuses a ``value`` that is not a number strictly between ``above`` and ``below``.

    Raises:
        ConfigError: It names the option, the value and the bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < below:
        raise ConfigError(f"{option}={value}: a number between {above:g} and {below:g} (both excluded) is expected")


def check_whole(option: str, value: object, *, least: int) -> None:
    """Refuses a ``value`` that is not a whole number of at least ``least``.

    Raises:
        ConfigError: It names the option, the value and the bound.
    """
    if type(value) is not int or value < least:
        raise ConfigError(f"{option}={value}: a whole number of at least {least} is expected")
