"""What is exported gives the network's logits, and runs where kdbench is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kdbench
import kdbench.export
from kdbench.cli import main
from kdbench.cli.export import FORMATS as OFFERED
from kdbench.core.errors import ConfigError
from kdbench.core.types import DataSpec
from kdbench.export import FORMATS, ExportError, Format, export_network, load_exported
from kdbench.models.create import create_network
from tests.toy import SHORT, recipes

DATA = DataSpec("fake", 5, (3, 32, 32), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The outputs folder, and the ID of a network with best weights that are not the last."""
    outputs = tmp_path_factory.mktemp("outputs")
    assert main([*SHORT, "teacher=none", "select_on=val", "optim.lr=1", f"paths.outputs={outputs}"]) == 0
    (entry,) = outputs.glob("store/??/*")
    return outputs, entry.name[:8]


def card(**changes: object) -> dict[str, object]:
    fake = ("dataset=fake", "dataset.num_classes=5", "teacher=none", "student=resnet8")
    plain = {"format": 2, "name": "resnet8", "recipe": recipes(*fake, outputs=Path("nowhere"))[-1].to_dict()}
    return plain | {"dataset": "fake", "num_classes": 5, "digest": "d", "weights": "last"} | changes


def resnet() -> nn.Module:
    config = {"_target_": "kdbench.models.cifar_resnet.CifarResNet", "depth": 8, "widths": [16, 16, 32, 64]}
    network = create_network(config, DATA, name="resnet8", seed=0).to(memory_format=torch.channels_last)
    network(torch.rand(9, 3, 32, 32))  # moves BatchNorm's statistics
    return network.eval()


@pytest.mark.parametrize("name", FORMATS)
def test_command_exports_the_selected_weights_and_says_how_close_they_are(
    name: str, trained: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs, network_id = trained
    assert main(["export", network_id, "--format", name, "--output", str(tmp_path), f"paths.outputs={outputs}"]) == 0
    out = capsys.readouterr().out
    assert "best weights" in out
    assert "same logits on 64 test samples: largest difference" in out
    assert ("opset 20" in out) == (name == "onnx")
    (file,) = tmp_path.glob("model.*")
    assert str(file) in out
    about = json.loads((tmp_path / "config.json").read_text())
    assert (about["weights"], about["num_classes"], about["input_shape"]) == ("best", 10, [1, 8, 8])
    assert len(list(tmp_path.iterdir())) == 2, "no draft is left"
    pixels = torch.rand(7, 1, 8, 8)
    wanted = kdbench.load(network_id, outputs)(pixels)
    torch.testing.assert_close(FORMATS[name].run(file, pixels), wanted, atol=1e-4, rtol=1e-4)


def test_which_chooses_the_weights_and_a_folder_holds_one_network(
    trained: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    outputs, network_id = trained
    command = ["export", network_id, "--format", "safetensors", f"paths.outputs={outputs}"]
    for which in ("last", "best"):
        assert main([*command, "--which", which]) == 0
    last, best = (load_exported(outputs / "exports" / f"plain2-{network_id}-{which}") for which in ("last", "best"))
    pixels = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(best(pixels), kdbench.load(network_id, outputs)(pixels))
    assert (last(pixels) - best(pixels)).abs().max() > 0.1
    taken = outputs / "exports" / f"plain2-{network_id}-last"
    assert main([*command, "--which", "best", "--output", str(taken)]) == 2
    assert "choose another" in capsys.readouterr().err


def alone(script: str, folder: Path, *blocked: str) -> dict[str, list[list[float]]]:
    """What a script prints as JSON, in a process that cannot import ``blocked``."""
    guard = f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
    ran = subprocess.run(
        [sys.executable, "-I", "-c", guard + script],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


ONNX = """
import json, numpy, onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
pixels = numpy.load("pixels.npy")
print(json.dumps({str(n): session.run(["logits"], {"pixels": pixels[:n]})[0].tolist() for n in (1, 3, 9)}))
"""
TORCH = """
import json, numpy, torch
module = torch.export.load("model.pt2").module()
pixels = torch.from_numpy(numpy.load("pixels.npy"))
print(json.dumps({str(n): module(pixels[:n]).tolist() for n in (1, 3, 9)}))
"""


@pytest.mark.parametrize(
    ("name", "script", "blocked"),
    [
        ("onnx", ONNX, ("kdbench", "torch", "timm", "onnx", "onnxscript")),
        ("torch_export", TORCH, ("kdbench", "timm", "torchvision", "pytorch_lightning")),
    ],
)
def test_a_file_runs_without_kdbench_at_any_batch_size(
    name: str, script: str, blocked: tuple[str, ...], tmp_path: Path
) -> None:
    network, pixels = resnet(), torch.rand(9, 3, 32, 32)
    export_network(network, card(), pixels[:4], name, tmp_path)
    np.save(tmp_path / "pixels.npy", pixels.numpy())
    for size, logits in alone(script, tmp_path, *blocked).items():
        torch.testing.assert_close(torch.tensor(logits), network(pixels[: int(size)]), atol=1e-4, rtol=1e-4)


def test_safetensors_carry_the_normalisation_and_start_a_training(trained: tuple[Path, str], tmp_path: Path) -> None:
    network, pixels = resnet(), torch.rand(4, 3, 32, 32)
    made = export_network(network, card(), pixels, "safetensors", tmp_path)
    loaded = load_exported(tmp_path)
    assert not loaded.training
    torch.testing.assert_close(loaded(pixels), network(pixels))
    assert loaded.mean.flatten().tolist() == pytest.approx(list(DATA.mean))
    assert made.bytes == made.path.stat().st_size
    outputs, network_id = trained
    command = ["export", network_id, "--format", "safetensors", "--output", str(tmp_path / "x")]
    assert main([*command, f"paths.outputs={outputs}"]) == 0
    given = f"teacher.checkpoint={tmp_path / 'x' / 'model.safetensors'}"
    assert main([*SHORT, "teacher=plain2", given, "student=plain4", f"paths.outputs={tmp_path / 'outputs'}"]) == 0


def test_other_logits_are_an_error_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(path: Path, pixels: Tensor) -> Tensor:
        return load_exported(path.parent)(pixels) + 0.01

    monkeypatch.setitem(kdbench.export.FORMATS, "safetensors", Format(FORMATS["safetensors"].write, off))  # pyright: ignore
    with pytest.raises(ExportError, match=r"other logits \(by 1\.0e-02\); nothing was written"):
        export_network(resnet(), card(), torch.rand(4, 3, 32, 32), "safetensors", tmp_path)
    assert list(tmp_path.iterdir()) == []


class Undecided(nn.Module):
    """Its forward depends on values, which no graph can hold."""

    name = "undecided"

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) if inputs.sum() > 0 else -inputs.flatten(1)


@pytest.mark.parametrize("name", ["torch_export", "onnx"])
def test_a_network_that_a_format_cannot_hold_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="undecided cannot be exported as") as caught:
        export_network(Undecided().eval(), card(), torch.rand(4, 3, 2, 2), name, tmp_path)  # pyright: ignore
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_what_to_install(
    trained: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs, network_id = trained
    monkeypatch.setattr(kdbench.export, "find_spec", lambda name: None if name == "onnxscript" else name)
    assert main(["export", network_id, "--format", "onnx", f"paths.outputs={outputs}"]) == 2
    assert capsys.readouterr().err == "kdbench: --format onnx needs onnxscript: pip install 'kdbench[export]'\n"


def test_best_weights_that_were_not_kept_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, "teacher=none", "protocol.validation=false", f"paths.outputs={tmp_path}"]) == 0
    (entry,) = tmp_path.glob("store/??/*")
    command = ["export", entry.name, "--format", "safetensors", "--which", "best", f"paths.outputs={tmp_path}"]
    assert main(command) == 2
    assert "take --which last" in capsys.readouterr().err


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json and model\.safetensors"):
        load_exported(tmp_path)
    export_network(resnet(), card(format=9), torch.rand(2, 3, 32, 32), "torch_export", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(ConfigError, match="of format 9"):
        load_exported(tmp_path)


def test_the_command_offers_every_format() -> None:
    assert set(OFFERED) == FORMATS.keys()
