"""``kdbench taps NAME``: the places of a network that a criterion can read."""

from collections.abc import Sequence

from kdbench.cli.arguments import Parser
from kdbench.config.compose import Composer
from kdbench.config.jobs import make_jobs
from kdbench.core.errors import ConfigError, nearest
from kdbench.report.console import Column, make_console, print_columns, print_line


def main(arguments: Sequence[str]) -> int:
    """Shows names, shapes and module paths; overrides such as ``dataset=fashion_mnist`` say what goes in."""
    parser = Parser(prog="kdbench taps", description="Places of a network whose activations a criterion can read.")
    parser.add_argument("network", help="as in student=, e.g. resnet20 or timm/resnet18")
    parser.add_argument("overrides", nargs="*", default=[], help="e.g. dataset=fashion_mnist student.variant=cifar100")
    parser.add_argument("--all", action="store_true", help="every module, not only the canonical taps")
    given = parser.parse_args(list(arguments))
    composer = Composer()
    if not composer.has_option("student", given.network):
        raise ConfigError(f"{given.network}: no such network{nearest(given.network, composer.options('student'))}")
    (job,) = make_jobs(composer, [f"student={given.network}", "teacher=none", "assistants=[]", *given.overrides])

    from kdbench.config.build import describe_network  # needs torch

    network, rows = describe_network(job.config["student"], job.config)
    shown = [row for row in rows if given.all or row.name in network.taps]
    console = make_console()
    print_columns(
        [
            Column("tap", [row.name for row in shown]),
            Column("shape", ["x".join(map(str, row.shape)) for row in shown]),
            Column("module", [f"{row.path} ({row.io})" for row in shown], keep=1),
        ],
        console,
    )
    shape = "x".join(map(str, (job.config["dataset"]["channels"], *[job.config["dataset"]["image_size"]] * 2)))
    print_line(console, f"{network.name} on {job.config['dataset']['name']} ({shape})"
                        + ("" if given.all else "; --all shows every module that can be tapped"))  # fmt: skip
    return 0
