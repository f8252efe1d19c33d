"""A trained network as files that run elsewhere: safetensors for kdbench, ``torch.export`` and ONNX for everybody.

Every format takes pixels in [0, 1], `(B, C, H, W)` float32 with any batch size, and gives logits `(B, classes)`; the
normalisation is inside. A file gets its name only after it has given the network's own logits on real test samples.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

import kdbench
from kdbench.config.build import Builder
from kdbench.core.errors import ConfigError, UserError
from kdbench.core.recipe import Recipe
from kdbench.core.types import DataSpec
from kdbench.data.loader import EvalLoader
from kdbench.models.network import Network
from kdbench.models.weights import export_state
from kdbench.store import Entry, Store
from kdbench.store.entry import BEST, Which

OPSET = 20  # of ONNX
CARD = "config.json"
_FORMAT = 2  # of the card
_TOLERANCE = 1e-4  # of the largest logit: kernels differ in the order of their sums
_SAMPLES = 64  # that a file is checked on


class ExportError(UserError):
    """A network cannot be written in a format, or gives other logits there (exit status 1)."""


def _write_safetensors(network: Network, pixels: Tensor, folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(save(export_state(network)))  # save_file would let nobody else read it
    return path


def _write_torch_export(network: Network, pixels: Tensor, folder: Path) -> Path:
    program = torch.export.export(network, (pixels,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, folder / "model.pt2")
    return folder / "model.pt2"


def _run_torch_export(path: Path, pixels: Tensor) -> Tensor:
    return torch.export.load(path).module()(pixels)


def _write_onnx(network: Network, pixels: Tensor, folder: Path) -> Path:
    torch.onnx.export(
        network,
        (pixels,),
        folder / "model.onnx",
        input_names=["pixels"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),
        opset_version=OPSET,
        external_data=False,  # one file; ONNX allows up to 2 GB
        dynamo=True,
        verbose=False,
    )
    return folder / "model.onnx"


def _run_onnx(path: Path, pixels: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"pixels": pixels.numpy()})[0])


def _run_safetensors(path: Path, pixels: Tensor) -> Tensor:
    return load_exported(path.parent)(pixels)


@dataclass(frozen=True)
class Format:
    """A way to write networks.

    Attributes:
        write: Makes its file in a folder, from a network in eval mode and a batch of samples.
        run: Gives the logits of samples, from the file alone (and the card beside it).
        needs: Packages that kdbench itself does not need.
    """

    write: Callable[[Network, Tensor, Path], Path]
    run: Callable[[Path, Tensor], Tensor]
    needs: tuple[str, ...] = ()


FORMATS: Mapping[str, Format] = {
    "safetensors": Format(_write_safetensors, _run_safetensors),
    "torch_export": Format(_write_torch_export, _run_torch_export),
    "onnx": Format(_write_onnx, _run_onnx, needs=("onnx", "onnxscript", "onnxruntime")),
}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The network's file; its card is beside it.
        bytes: The file's size.
        difference: Largest absolute difference of a logit from the network's own.
        samples: Test samples that were compared.
    """

    path: Path
    bytes: int
    difference: float
    samples: int


def check_format(name: str) -> None:
    """To be called before anything is loaded.

    Raises:
        ConfigError: A package is missing that this format needs.
    """
    if missing := [package for package in FORMATS[name].needs if find_spec(package) is None]:
        raise ConfigError(f"--format {name} needs {', '.join(missing)}: pip install 'kdbench[export]'")


def make_card(entry: Entry, data: DataSpec, which: Which) -> dict[str, Any]:
    """What a file alone does not say: classes, shapes, the network's config, where its weights are from."""
    recipe = entry.recipe
    return {
        "format": _FORMAT,
        "kdbench": kdbench.__version__,
        "name": recipe.name,
        "recipe": recipe.to_dict(),
        "dataset": data.name,
        "num_classes": data.num_classes,
        "class_names": list(data.class_names),
        "input_shape": list(data.input_shape),
        "input": "pixels in [0, 1], float32, batch x channels x height x width; normalisation is inside",
        "output": "logits, batch x num_classes",
        "digest": entry.digest,
        "chain": recipe.chain(),
        "weights": which,
        "select_on": recipe.select_on,
    }


def load_exported(folder: Path, trusted: tuple[str, ...] = ()) -> Network:
    """The network of ``model.safetensors`` and ``config.json`` in ``folder``, in eval mode, on the CPU.

    The card names a class and its options; as everywhere in kdbench, it must be a ``nn.Module`` of a trusted package.

    Args:
        folder: Written by ``kdbench export --format safetensors``.
        trusted: Packages of the user's, whose classes may be used.

    Raises:
        ConfigError: A file is missing, of another version of kdbench, or does not describe a network.
    """
    try:
        card = json.loads((folder / CARD).read_text())
        state = load_file(folder / "model.safetensors")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: no {CARD} and model.safetensors that can be read ({error})") from error
    if card.get("format") != _FORMAT:
        raise ConfigError(f"{folder / CARD}: of format {card.get('format')}, this kdbench reads format {_FORMAT}")
    network = Builder(Store(folder), folder, trusted=trusted).shell(Recipe.from_dict(card["recipe"]))
    network.load_state_dict(state)
    return network.eval()


def export_network(network: Network, card: Mapping[str, Any], pixels: Tensor, name: str, folder: Path) -> Exported:
    """Writes a network and its card, after proving that the file gives the same logits.

    Args:
        network: In eval mode, on the CPU.
        card: From :func:`make_card`.
        pixels: Real samples, `(B, C, H, W)`, B at least 2; compared all at once, and the first alone.
        name: One of :data:`FORMATS`.
        folder: Where to; made if it is not there, an earlier export in it is replaced.

    Raises:
        ConfigError: ``folder`` holds an export of another network or of other weights.
        ExportError: The format cannot hold this network, or gives other logits.
    """
    _check_folder(folder, card)
    network = network.to(memory_format=torch.contiguous_format)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".") as temporary, torch.no_grad():
        draft = Path(temporary)
        (draft / CARD).write_text(json.dumps(card, indent=2) + "\n")
        try:
            path = FORMATS[name].write(network, pixels, draft)
            given = [FORMATS[name].run(path, batch) for batch in (pixels, pixels[:1])]
        except RuntimeError as error:  # what every exporter's own errors are
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ExportError(f"{network.name} cannot be exported as {name}: {reason}; try another --format") from error
        wanted = [network(pixels), network(pixels[:1])]
        difference = max(float((a - b).abs().max()) for a, b in zip(given, wanted, strict=True))
        if not difference <= _TOLERANCE * max(1.0, float(wanted[0].abs().max())):
            raise ExportError(f"{network.name} as {name} gives other logits (by {difference:.1e}); nothing was written")
        for file in (path, draft / CARD):
            os.replace(file, folder / file.name)
    final = folder / path.name
    return Exported(final, final.stat().st_size, difference, len(pixels))


def _check_folder(folder: Path, card: Mapping[str, Any]) -> None:
    """One card describes every file of its folder."""
    try:
        found = json.loads((folder / CARD).read_text())
    except (OSError, ValueError):
        return
    if any(found.get(key) != card[key] for key in ("digest", "weights")):
        raise ConfigError(f"--output {folder}: holds an export of another network or of other weights; choose another")


def export_entry(entry: Entry, builder: Builder, name: str, folder: Path, *, which: Which) -> Exported:
    """Exports a network of the store.

    Args:
        entry: What to export.
        builder: Builds it and its data.
        name: One of :data:`FORMATS`.
        folder: Where to.
        which: Its weights after the last epoch, or the best.

    Raises:
        ConfigError: A package is missing, ``folder`` is taken, there are no best weights, or the data cannot be had.
        ExportError: The format cannot hold this network, or gives other logits.
        StoreError: The weights are damaged.
    """
    check_format(name)
    if which == "best" and BEST not in entry.checksums:
        raise ConfigError(f"--which best: {entry.id} ({entry.recipe.name}) kept no best weights; take --which last")
    data = builder.data(entry.recipe)
    network = builder.trained(entry.digest).eval()
    network.load_state_dict(entry.weights(which))
    pixels = next(iter(EvalLoader(data.test, _SAMPLES))).inputs
    return export_network(network, make_card(entry, data.spec, which), pixels, name, folder)
