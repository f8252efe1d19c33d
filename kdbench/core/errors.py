"""Errors that a user sees: one clear line each, naming the fix."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class UserError(ValueError):
    """Something the user can fix; shown without a traceback.

    Args:
        problems: One line each; several when several things are wrong at once.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type, tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class ConfigError(UserError):
    """The command or a config is wrong; found before anything started (exit status 2)."""


class DataError(ConfigError):
    """A dataset is missing, damaged, or does not fit (exit status 2)."""


class StoreError(UserError):
    """An entry of the store is absent, damaged or cannot be written (exit status 1 or 2, by when it is found)."""


class TrainingError(UserError):
    """A training that cannot go on, as when its loss is no longer finite (exit status 1)."""


class Stopped(Exception):
    """A signal asked the run to stop; its state has been saved.

    Args:
        signum: The signal's number; the exit status is ``128 + signum``.
    """

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signum)


class Problems:
    """Collects what is wrong, so that all of it is said at once; each line once."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, *lines: str) -> None:
        """Notes problems."""
        self.lines += [line for line in dict.fromkeys(lines) if line not in self.lines]

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Notes the problems of a :class:`ConfigError` and goes on behind the ``with`` statement."""
        try:
            yield
        except ConfigError as error:
            self.add(*error.problems)

    def check(self) -> None:
        """To be called when everything was looked at.

        Raises:
            ConfigError: There are problems.
        """
        if self.lines:
            raise ConfigError(self.lines)


def nearest(word: str, options: Iterable[str], *, limit: int = 12) -> str:
    """End of an error line: the nearest match of ``word``, or what there is.

    Returns:
        ``"; did you mean 'x'?"``, or ``"; there is: a, b, c"`` where nothing is close, or nothing without options.
    """
    names: Sequence[str] = sorted(set(options))
    if not names:
        return ""
    lowered = {name.lower(): name for name in names}
    match = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    if match:
        return f"; did you mean {lowered[match[0]]!r}?"
    shown = ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
    return f"; there is: {shown}"
