"""Images per second of the whole path to a batch: gather, views, float, normalisation; CIFAR's shape."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.result import Row, Threshold
from kdbench.config.compose import Composer
from kdbench.core.heap import keep_freed_memory
from kdbench.data.load import ImageSplit
from kdbench.data.loader import TrainLoader
from kdbench.data.mixing import make_mixes
from kdbench.data.view_options import OPTIONS
from kdbench.data.views import make_views
from kdbench.models.network import Network

BATCH_SIZE, PADDING = 128, 4
COMPOSER = Composer()
GROUP, PIL = f"32x32x3, B {BATCH_SIZE}", "PIL, sample by sample, crop_flip"


def _split(images: int) -> ImageSplit:
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    return ImageSplit(pixels, torch.arange(images) % 10, torch.arange(images))


def _ours(split: ImageSplit, name: str, batches: int) -> float:
    augment = COMPOSER.resolve(("dataset=fake", f"dataset/augment=[{name}]"), ())["dataset"]["augment"]
    loader = TrainLoader(
        split,
        BATCH_SIZE,
        seed=0,
        views=make_views(augment),
        mixes=make_mixes(augment),
        memory_format=torch.channels_last,
    )
    normalise = Network(nn.Identity(), name=name, num_classes=10, mean=[0.45] * 3, std=[0.25] * 3, taps={})
    started = perf_counter()
    for batch in islice(loader, batches):
        normalise(batch.inputs)
    return batches * BATCH_SIZE / (perf_counter() - started)


def _pil(split: ImageSplit, batches: int) -> float:
    """As torchvision's transforms do it for every framework that augments in a ``Dataset``."""
    assert isinstance(split.images, Tensor)
    pictures = [Image.fromarray(image) for image in split.images[:BATCH_SIZE].permute(0, 2, 3, 1).numpy()]
    started = perf_counter()
    for _ in range(batches):
        torch.stack([_view(picture) for picture in pictures])
    return batches * BATCH_SIZE / (perf_counter() - started)


def _view(picture: Image.Image) -> Tensor:
    padded = Image.new("RGB", (32 + 2 * PADDING, 32 + 2 * PADDING))
    padded.paste(picture, (PADDING, PADDING))
    left, top = torch.randint(0, 2 * PADDING + 1, (2,)).tolist()
    view = padded.crop((left, top, left + 32, top + 32))
    if torch.rand(()).item() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = torch.from_numpy(np.array(view)).permute(2, 0, 1).float().div_(255)
    return (pixels - 0.45) / 0.25


def run(outputs: Path, *, quick: bool, threads: int) -> list[Row]:
    """Images per second of every augmentation there is, and of the usual way to do the commonest."""
    torch.set_num_threads(threads)
    keep_freed_memory()  # as every training does
    batches, rounds = (5, 2) if quick else (300, 7)
    split = _split(1280 if quick else 50_000)
    found: dict[str, list[float]] = {name: [] for name in (PIL, *OPTIONS)}
    for _ in range(rounds):
        found[PIL].append(_pil(split, max(batches // 30, 1)))
        for name in OPTIONS:
            found[name].append(_ours(split, name, batches))
    return [Row(GROUP, name, values, "images/s", per_second=True) for name, values in found.items()]


THRESHOLDS = [Threshold(GROUP, "crop_flip", least=100_000)]
