"""``kdbench methods``."""

from collections.abc import Sequence

from kdbench.cli.arguments import Parser
from kdbench.cli.listing import listed, print_listing


def main(arguments: Sequence[str]) -> int:
    """Lists the methods."""
    Parser(
        prog="kdbench methods", description="Distillation methods for method=NAME, or method=[A,B] to add their terms."
    ).parse_args(arguments)
    print_listing(listed("method"))
    return 0
