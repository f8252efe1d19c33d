"""``kdbench datasets``."""

from collections.abc import Sequence

from kdbench.cli.arguments import Parser
from kdbench.cli.listing import listed, print_listing


def main(arguments: Sequence[str]) -> int:
    """Lists the datasets."""
    Parser(prog="kdbench datasets", description="Datasets for dataset=NAME.").parse_args(arguments)
    print_listing(listed("dataset"))
    return 0
