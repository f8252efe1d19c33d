"""The ``kdbench`` command: dispatch, exit statuses, errors in one line each."""

import sys
from collections.abc import Sequence

from kdbench import __version__
from kdbench.core.errors import ConfigError, Stopped, UserError, nearest
from kdbench.core.signals import stopping_safely

DONE, FAILED, WRONG = 0, 1, 2  # and 128 + signal when stopped


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Returns:
        0 done; 1 something failed while running; 2 the command was wrong and nothing was started; 130 and 143 stopped.
    """
    import kdbench.core.lean  # noqa: F401 (before anything imports Lightning)
    from kdbench.cli.arguments import COMMANDS, parse_run

    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with stopping_safely():
            if arguments and arguments[0] in COMMANDS:
                return COMMANDS[arguments[0]](arguments[1:])
            if "--version" in arguments:
                sys.stdout.write(f"kdbench {__version__}\n")
                return DONE
            if arguments and "=" not in arguments[0] and not arguments[0].startswith("-"):
                raise ConfigError(f"{arguments[0]}: no such command{nearest(arguments[0], COMMANDS)}"
                                  " (settings have the form key=value)")  # fmt: skip
            from kdbench.cli.run import run

            return run(parse_run(arguments))
    except ConfigError as error:
        _complain(error)
        return WRONG
    except UserError as error:
        _complain(error)
        return FAILED
    except Stopped as stopped:
        sys.stderr.write("stopped; type the same command again to go on\n")
        return 128 + stopped.signum
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        sys.stderr.close()
        return DONE


def _complain(error: UserError) -> None:
    for problem in error.problems:
        sys.stderr.write(f"kdbench: {problem}\n")
