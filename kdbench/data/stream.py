"""Images that do not fit into memory: decoded by workers ahead of the training, in the order it will ask for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdbench.core.errors import DataError
from kdbench.data.crop import ResizedCrop
from kdbench.data.photos import Photos, fitted


class Request(NamedTuple):
    """Images of one batch.

    Attributes:
        positions: In the photos, `(B,)`.
        draws: Random numbers of each look's crops, `(L, B, D)`; ``None`` for the middle, one look.
    """

    positions: NDArray[np.int64]
    draws: NDArray[np.float32] | None


@dataclass(frozen=True)
class Stream:
    """The images of a split, decoded when they are asked for; in all else like a uint8 tensor `(N, C, H, W)`.

    Attributes:
        photos: Where they come from.
        positions: Of the split's images among the photos, `(N,)`.
        channels: 3 for RGB, 1 for grey.
        size: Height and width in pixels.
        crop: The part of each photo that a training is shown; ``None`` for the middle.
    """

    photos: Photos
    positions: NDArray[np.int64]
    channels: int
    size: int
    crop: ResizedCrop | None = None

    def chosen(self, positions: NDArray[np.int64]) -> Stream:
        """A part of the split."""
        return replace(self, positions=self.positions[positions])

    def request(self, positions: Tensor, looks: Sequence[Tensor]) -> Request:
        """What to ask for to get some images.

        Args:
            positions: In the split, `(B,)`.
            looks: For each look at them its samples' keys, `(B,)`; empty for images as they are.
        """
        draws = None
        if self.crop is not None and looks:
            draws = np.stack([self.crop.draws(keys.cpu()).numpy() for keys in looks])
        return Request(self.positions[positions.cpu().numpy()], draws)

    def decode(self, asked: Request, look: int, place: int) -> NDArray[np.uint8]:
        """One image of a request, `(H, W, C)`.

        Raises:
            DataError: It is damaged.
        """
        image = self.photos.open(int(asked.positions[place]), "L" if self.channels == 1 else "RGB")
        box = None if asked.draws is None or self.crop is None else self.crop.box(asked.draws[look, place], *image.size)
        return fitted(image, self.size, box)

    def take(self, positions: Tensor, looks: Sequence[Tensor] = ()) -> list[Tensor]:
        """Some images at once, decoded in threads: Pillow works outside the interpreter's lock.

        Args:
            positions: See :meth:`request`.
            looks: See :meth:`request`.

        Returns:
            uint8, `(B, C, H, W)`, channels last in memory; one for each look if they differ, else one for all.

        Raises:
            DataError: An image is damaged.
        """
        asked = self.request(positions, looks)
        with ThreadPoolExecutor() as pool:
            return _as_batches(_stacked(self, asked, pool.map))

    def fetch(self, requests: Iterable[Request], *, workers: int, device: torch.device) -> Iterator[list[Tensor]]:
        """What :meth:`take` gives for each request, prepared by worker processes, on ``device``.

        Args:
            requests: In the order in which they are asked for.
            workers: Processes; 0 decodes here.
            device: Where the images are wanted; copied from pinned memory if that is a GPU.

        Raises:
            DataError: An image is damaged.
        """
        loader = DataLoader(
            _Decoder(self),
            batch_size=None,
            sampler=requests,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else each iteration would draw from the global one
        )
        for images in loader:
            if isinstance(images, DataError):
                raise images
            yield _as_batches(images.to(device, non_blocking=True))


def _stacked(stream: Stream, asked: Request, apply: Callable[..., Iterable[None]] = map) -> Tensor:
    looks, count = 1 if asked.draws is None else len(asked.draws), len(asked.positions)
    images = torch.empty(looks, count, stream.size, stream.size, stream.channels, dtype=torch.uint8)
    filled = images.numpy()

    def fill(number: int) -> None:
        filled[divmod(number, count)] = stream.decode(asked, *divmod(number, count))

    for _ in apply(fill, range(looks * count)):
        pass
    return images


def _as_batches(images: Tensor) -> list[Tensor]:
    return list(images.permute(0, 1, 4, 2, 3))


class _Decoder(Dataset[Tensor | DataError]):
    """Answers requests in a worker; hands errors over as they are, which DataLoader would wrap in a traceback."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __getitem__(self, asked: Request) -> Tensor | DataError:
        try:
            return _stacked(self._stream, asked)
        except DataError as error:
            return error
