"""``kdbench export ID --format ...``: a trained network as a file that runs elsewhere."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from kdbench.cli.arguments import Parser
from kdbench.cli.store import find
from kdbench.config.compose import Composer
from kdbench.config.jobs import make_jobs
from kdbench.report.console import count_text, make_console, print_line
from kdbench.store import Store
from kdbench.store.entry import selected_weights

FORMATS = ("safetensors", "torch_export", "onnx")
ABOUT = """\
A trained network alone, its normalisation inside: pixels in [0, 1] to logits, any batch size. The file is checked on
real test samples before it gets its name; config.json beside it has classes, shapes and where the weights are from.

  safetensors    weights; kdbench.export.load_exported(Path(DIR)), or student.checkpoint=DIR/model.safetensors
  torch_export   a program for torch.export.load(DIR/model.pt2).module(); needs torch alone
  onnx           a graph with input "pixels" and output "logits"; runs with onnxruntime alone. Making it needs
                 pip install 'kdbench[export]'
"""


def main(arguments: Sequence[str]) -> int:
    """Writes the files and tells how much their logits differ."""
    parser = Parser(prog="kdbench export", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("id", help="as kdbench store ls shows it")
    parser.add_argument(
        "overrides", nargs="*", default=[], help="paths.outputs=DIR, dataset.root=DIR (of the data), trust=[PACKAGE]"
    )
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--which", choices=["last", "best"], help="weights (default: those its recipe selects)")
    parser.add_argument("--output", type=Path, help="folder (default: exports/NAME-ID-WHICH below paths.outputs)")
    given = parser.parse_intermixed_args(list(arguments))
    (job,) = make_jobs(Composer(), given.overrides)
    paths = {name: Path(folder).expanduser() for name, folder in job.config["paths"].items()}
    store = Store(paths["outputs"] / "store")
    entry = find(store, given.id)

    which = given.which or selected_weights(entry.recipe)
    folder = given.output or paths["outputs"] / "exports" / f"{entry.recipe.name}-{entry.id}-{which}"

    from kdbench.config.build import Builder  # these need torch
    from kdbench.export import OPSET, export_entry

    roots = {entry.recipe.data["name"]: job.config["dataset"]["root"]}
    builder = Builder(store, paths["data"], roots=roots, trusted=job.config["trust"])
    made = export_entry(entry, builder, given.format, folder, which=which)
    console = make_console()
    opset = f", opset {OPSET}" if given.format == "onnx" else ""
    print_line(console, f"{entry.recipe.chain()} ({entry.id}), {which} weights, as {given.format}{opset}")
    print_line(console, f"{made.path}  {count_text(made.bytes)}B")
    print_line(console, f"same logits on {made.samples} test samples: largest difference {made.difference:.1e}")
    return 0
