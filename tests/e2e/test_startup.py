"""What a command imports: seconds of its start."""

import json
import subprocess
import sys
from pathlib import Path

from tests.toy import SHORT

UNUSED = (
    "timm",
    "torchvision",
    "wandb",
    "tensorboard",
    "onnx",
    "onnxruntime",
    "transformers",
    "scipy",
    "matplotlib",
    "pandas",
)
PROGRAM = """
import json, sys
from kdbench.cli import main
status = main(json.loads(sys.argv[1]))
sys.stderr.write(json.dumps([status, sorted(sys.modules)]))
"""


def modules_after(*command: str) -> set[str]:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(command)], capture_output=True, text=True, check=True
    )
    status, modules = json.loads(ran.stderr.splitlines()[-1])
    assert status == 0
    return set(modules)


def test_a_run_imports_no_library_that_it_does_not_use(outputs: Path) -> None:
    modules = modules_after(*SHORT)
    assert {"torch", "pytorch_lightning"} <= modules
    assert not modules & set(UNUSED)


def test_help_and_config_import_neither_torch_nor_numpy() -> None:
    for command in (("--help",), ("--cfg", "job")):
        assert not modules_after(*command) & {"torch", "numpy", "pytorch_lightning"}


def test_the_libraries_are_hidden_from_torchmetrics_alone() -> None:
    program = (
        "import kdbench.core.lean, pytorch_lightning, torchvision.models, torchmetrics; torchvision.models.resnet18()"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)
