"""``kdbench models``: the networks that can be any role."""

from collections.abc import Sequence

from kdbench.cli.arguments import Parser
from kdbench.cli.listing import listed, print_listing
from kdbench.report.console import make_console, print_line


def main(arguments: Sequence[str]) -> int:
    """Lists kdbench's own networks, then how to name those of libraries."""
    Parser(prog="kdbench models", description="Networks for teacher=, student= and assistants=[...].").parse_args(
        arguments
    )
    print_listing(listed("model"))
    console = make_console()
    print_line(console, "timm/NAME, torchvision/NAME   any network of these libraries, e.g. teacher=timm/resnet18")
    print_line(console, "hf/OWNER/NAME                 an image classifier of Hugging Face's hub (extra: huggingface)")
    print_line(console, "store/ID                      a network trained before; see kdbench store ls")
    return 0
