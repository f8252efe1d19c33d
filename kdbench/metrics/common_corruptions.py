"""Accuracy under common corruptions: those kinds of CIFAR-10-C that need no download, made on the batch."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from kdbench.core.errors import ConfigError, nearest
from kdbench.core.types import Batch, DataSpec
from kdbench.metrics._noise import SampleNoise
from kdbench.metrics.base import Evaluation, device_of, evaluating, first, nothing_to_evaluate, predict


def _gaussian_noise(images: Tensor, scale: float, noise: SampleNoise) -> Tensor:
    return images + scale * noise.normal(images)


def _shot_noise(images: Tensor, photons: float, noise: SampleNoise) -> Tensor:
    return noise.poisson(images * photons) / photons


def _impulse_noise(images: Tensor, share: float, noise: SampleNoise) -> Tensor:
    drawn = noise.uniform(images)
    return images.masked_fill(drawn < share, 1.0).masked_fill(drawn < share / 2, 0.0)


def _speckle_noise(images: Tensor, scale: float, noise: SampleNoise) -> Tensor:
    return images * (1 + scale * noise.normal(images))


def _convolved(images: Tensor, kernel: Tensor, mode: str) -> Tensor:
    """Each channel filtered with one odd square kernel of sum 1; ``mode`` continues the image beyond its border."""
    channels, half = images.shape[1], len(kernel) // 2
    weight = kernel.to(images).expand(channels, 1, -1, -1)
    return conv2d(pad(images, [half] * 4, mode=mode), weight, groups=channels)


def _bell(half: int, sigma: float) -> Tensor:
    weights = torch.exp(-0.5 * (torch.arange(-half, half + 1) / sigma) ** 2)
    weights = weights / weights.sum()
    return weights[:, None] * weights


def _gaussian_blur(images: Tensor, sigma: float, noise: SampleNoise) -> Tensor:
    return _convolved(images, _bell(math.floor(4 * sigma + 0.5), sigma), "replicate")


def _defocus_blur(images: Tensor, options: tuple[float, float], noise: SampleNoise) -> Tensor:
    """A disk whose edge is smoothed by a 3x3 Gaussian, as if out of focus."""
    radius, smoothing = options
    half = math.floor(radius) + 1
    steps = torch.arange(-half, half + 1)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).float()
    kernel = conv2d((disk / disk.sum())[None, None], _bell(1, smoothing)[None, None], padding=1)[0, 0]
    return _convolved(images, kernel, "reflect")


def _brightness(images: Tensor, amount: float, noise: SampleNoise) -> Tensor:
    """Raises the value of HSV at constant hue and saturation; black has none and turns grey."""
    value = images.amax(dim=1, keepdim=True)
    raised = (value + amount).clamp(max=1)
    return torch.where(value > 0, images * raised / value.clamp(min=1e-6), raised)


def _saturate(images: Tensor, options: tuple[float, float], noise: SampleNoise) -> Tensor:
    """Maps the saturation of HSV linearly at constant hue and value; grey has no hue and is tinted red."""
    factor, offset = options
    value, least = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
    saturation = (value - least) / value.clamp(min=1e-6)
    wanted = (saturation * factor + offset).clamp(0, 1)
    red = torch.tensor([0.0, 1.0, 1.0]).to(images).reshape(-1, 1, 1)
    below = torch.where(saturation > 0, (value - images) / saturation.clamp(min=1e-6), value * red)
    return value - wanted * below


def _contrast(images: Tensor, factor: float, noise: SampleNoise) -> Tensor:
    mean = images.mean(dim=(2, 3), keepdim=True)
    return (images - mean) * factor + mean


def _box(size: int, smaller: int) -> Tensor:
    """Rows that average the pixels whose centre lies in each of ``smaller`` equal parts of ``size``, `(S, N)`."""
    centres = torch.arange(size) + 0.5
    edges = torch.arange(smaller)[:, None] * (size / smaller)
    inside = ((centres > edges) & (centres <= edges + size / smaller)).float()
    return inside / inside.sum(dim=1, keepdim=True)


def _pixelate(images: Tensor, factor: float, noise: SampleNoise) -> Tensor:
    """Down by a box filter and up again by the nearest pixel."""
    for _ in range(2):  # rows, then columns
        size = images.shape[-1]
        smaller = max(int(size * factor), 1)
        back = ((torch.arange(size) + 0.5) * smaller / size).long()
        images = (images @ _box(size, smaller)[back].to(images).T).transpose(-1, -2)
    return images


def _jpeg_compression(images: Tensor, quality: int, noise: SampleNoise) -> Tensor:
    return (
        torch.stack([_through_jpeg(image, quality) for image in (255 * images).round().byte().cpu()]).to(images) / 255
    )


def _through_jpeg(image: Tensor, quality: int) -> Tensor:
    """An image `(C, H, W)` of bytes, in grey or in colour, written by Pillow and read again."""
    array = image.permute(1, 2, 0).squeeze(2).numpy()
    with io.BytesIO() as file:
        Image.fromarray(array).save(file, "JPEG", quality=quality)
        with Image.open(file) as stored:
            return torch.from_numpy(np.array(stored)).reshape(*image.shape[1:], -1).permute(2, 0, 1)


class Kind(NamedTuple):
    """One corruption.

    Attributes:
        apply: From images, the constant of a severity, and random numbers to images, not yet clipped.
        constants: Of severities 1 to 5.
        channels: How many an image must have; ``None`` for any.
    """

    apply: Callable[[Tensor, Any, SampleNoise], Tensor]
    constants: tuple[Any, ...]
    channels: tuple[int, ...] | None = None


KINDS: Mapping[str, Kind] = {
    "gaussian_noise": Kind(_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": Kind(_shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": Kind(_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "speckle_noise": Kind(_speckle_noise, (0.06, 0.10, 0.12, 0.16, 0.20)),
    "gaussian_blur": Kind(_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "defocus_blur": Kind(_defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))),
    "brightness": Kind(_brightness, (0.05, 0.10, 0.15, 0.20, 0.30)),
    "contrast": Kind(_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "saturate": Kind(_saturate, ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2)), channels=(3,)),
    "pixelate": Kind(_pixelate, (0.95, 0.90, 0.85, 0.75, 0.65)),
    "jpeg_compression": Kind(_jpeg_compression, (80, 65, 58, 50, 40), channels=(1, 3)),
}
SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(images: Tensor, kind: str, severity: int, *, index: Tensor, seed: int = 0) -> Tensor:
    """Images with one corruption, rounded down to 8 bits as in the files of CIFAR-10-C.

    Args:
        images: Pixels in [0, 1], `(B, C, H, W)`.
        kind: One of :data:`KINDS`.
        severity: 1 to 5.
        index: Position of each sample in its split, `(B,)`; with ``seed`` it determines the noise.
        seed: Of the noise.

    Returns:
        Pixels in [0, 1], of the same shape.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 3; constants of the released code for CIFAR-10-C.
    Differs from: the released code in its random numbers, and in the version of Pillow's libjpeg.
    """
    apply, constants, _ = KINDS[kind]
    corrupted = apply(images, constants[severity - 1], SampleNoise(index, seed, kind, severity)).clamp(0, 1)
    return (255 * corrupted + 1e-3).floor() / 255  # what is a whole number of 255 must stay one


class CommonCorruptions(Evaluation):
    """Accuracy for each kind and severity, and as a fraction of that on clean images.

    Severities are those made for 32x32 pixels, at any image size. Kinds that an image's channels do not allow are left
    out and named.

    Args:
        kinds: Some of :data:`KINDS`; ``None`` for all.
        severities: Some of 1 to 5.
        seed: Of the noise.
        samples: Measure on the first so many; ``None`` for all.

    Raises:
        ConfigError: An unknown kind or severity, or no sample.
    """

    headline = "mean_acc"

    def __init__(
        self,
        *,
        kinds: Sequence[str] | None = None,
        severities: Sequence[int] = SEVERITIES,
        seed: int = 0,
        samples: int | None = None,
    ) -> None:
        self.kinds = tuple(KINDS if kinds is None else kinds)
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(f"eval.corruptions.kinds: {kind!r} is unknown{nearest(str(kind), KINDS)}")
        if not self.kinds or not severities or not set(severities) <= set(SEVERITIES):
            raise ConfigError(f"eval.corruptions.severities={list(severities)}: some of 1 to 5 are needed, and a kind")
        if samples is not None and samples < 1:
            raise ConfigError(f"eval.corruptions.samples={samples}: at least 1 is needed; null takes all")
        self.severities, self.seed, self.samples = tuple(severities), seed, samples

    def check(self, network: nn.Module, teachers: Sequence[nn.Module], data: DataSpec) -> None:
        """Refuses images whose channels allow none of the kinds."""
        if not self._possible(data):
            raise ConfigError(f"eval.corruptions.kinds={list(self.kinds)}: not for {data.input_shape[0]} channel(s)")

    def _possible(self, data: DataSpec) -> list[str]:
        needs = {kind: KINDS[kind].channels for kind in self.kinds}
        return [kind for kind, channels in needs.items() if channels is None or data.input_shape[0] in channels]

    @torch.inference_mode()
    def __call__(
        self,
        network: nn.Module,
        loader: Iterable[Batch],
        teachers: Sequence[nn.Module],
        data: DataSpec,
        *others: Iterable[Batch],
    ) -> dict[str, Any]:
        """Accuracies in percent.

        Returns:
            ``samples``, ``clean_acc``, ``mean_acc`` over kinds and severities, ``of_clean`` (mean as a part of clean),
            ``left_out``, and ``kinds``: for each its mean ``acc``, ``of_clean``, and the accuracy at each severity.

        Raises:
            DataError: The loader yields nothing.
        """
        kinds = self._possible(data)
        device, seen = device_of(network), 0
        right = torch.zeros(1 + len(kinds) * len(self.severities), device=device)
        with evaluating(network):
            for given in first(loader, self.samples):
                images, target, index = (part.to(device) for part in (given.inputs, given.target, given.index))
                cells = [(kind, severity) for kind in kinds for severity in self.severities]
                views = (corrupt(images, *cell, index=index, seed=self.seed) for cell in cells)
                hits = [predict(network, view).argmax(dim=-1) == target for view in (images, *views)]
                right += torch.stack(hits).sum(dim=1)
                seen += len(target)
        if not seen:
            raise nothing_to_evaluate()
        clean, *cells = (100 * right / seen).tolist()
        return {"samples": seen, "clean_acc": clean, **self._summary(kinds, clean, cells)}

    def _summary(self, kinds: Sequence[str], clean: float, cells: Sequence[float]) -> dict[str, Any]:
        def of_clean(acc: float) -> float | None:
            return 100 * acc / clean if clean else None

        width, rows = len(self.severities), []
        for place, kind in enumerate(kinds):
            accuracies = cells[place * width : (place + 1) * width]
            mean = sum(accuracies) / width
            severities = {f"severity{level}": acc for level, acc in zip(self.severities, accuracies, strict=True)}
            rows.append({"kind": kind, "acc": mean, "of_clean": of_clean(mean), **severities})
        mean = sum(cells) / len(cells)
        left_out = [kind for kind in self.kinds if kind not in kinds]
        return {"mean_acc": mean, "of_clean": of_clean(mean), "left_out": left_out, "kinds": rows}
