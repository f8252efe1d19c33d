"""What can be typed: the flags of a run, and the sub-commands, each loaded when it is used."""

import argparse
import importlib
from collections.abc import Callable, Sequence
from typing import NoReturn

from kdbench.core.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        """Raises instead of exiting.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{message}; see {self.prog} --help")


def _command(module: str) -> Callable[[Sequence[str]], int]:
    def call(arguments: Sequence[str]) -> int:
        return importlib.import_module(f"kdbench.cli.{module}").main(arguments)

    return call


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "models": _command("models"),
    "methods": _command("methods"),
    "datasets": _command("datasets"),
    "data": _command("data"),
    "taps": _command("taps"),
    "store": _command("store"),
    "eval": _command("evaluate"),
    "export": _command("export"),
    "search": _command("search"),
    "dashboard": _command("dashboard"),
    "report": _command("report"),
}


def parse_run(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags and overrides of a run: Hydra's own.

    Raises:
        ConfigError: An unknown flag.
    """
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.prog = "kdbench"
    parser.allow_abbrev = False

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message.replace(chr(10), ' ')}; see kdbench --help")

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_intermixed_args(list(arguments))
