"""``kdbench datasets``."""

from collections.abc import Sequence

from kdbench.cli.arguments import Parser
from kdbench.cli.listing import listed, print_listing
from kdbench.report.console import make_console, print_line


def main(arguments: Sequence[str]) -> int:
    """Lists the datasets, then how their training images are seen and what can be done to them."""
    Parser(prog="kdbench datasets", description="Datasets for dataset=NAME.").parse_args(arguments)
    print_listing(listed("dataset"))
    print_line(
        make_console(), "\nViews of the training images, for dataset.augment=[NAME,...]; they run in a fixed order:"
    )
    print_listing(listed("dataset/augment"))
    print_line(make_console(), "\nCorruptions of the training images and labels, for dataset/corruption=NAME:")
    print_listing(listed("dataset/corruption"))
    return 0
