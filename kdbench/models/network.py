"""What every network looks like from outside: pixels in, logits out, taps named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Tap


def find_head(body: nn.Module, num_classes: int) -> str | None:
    """Path of the classifier: the last module with parameters of its own, if it is linear and has C outputs."""
    owners = [path for path, module in body.named_modules() if next(module.parameters(recurse=False), None) is not None]
    last = body.get_submodule(owners[-1]) if owners else None
    return owners[-1] if isinstance(last, nn.Linear) and last.out_features == num_classes else None


def find_pooling(body: nn.Module) -> str | None:
    """Path of the last global average pooling."""
    paths = [path for path, module in body.named_modules()
             if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))]  # fmt: skip
    return paths[-1] if paths else None


class Network(nn.Module):
    r"""A body with the normalisation it needs: :math:`\mathrm{body}((x - \mu) / \sigma)`.

    The normalisation belongs to the network, so that a teacher keeps its own statistics and attacks work on pixels.

    Args:
        body: Maps normalised images to logits `(B, C)`.
        name: As in the recipe, e.g. ``resnet20``.
        num_classes: Number of classes C.
        mean: Mean of each channel in [0, 1].
        std: Standard deviation of each channel, positive.
        taps: Canonical taps, by paths within the body. Unless they are there, ``last_map`` (what enters the global
            average pooling), ``pooled`` (what enters the classifier) and ``logits`` (what the body returns) are added.
        heads: Paths within the body of the modules that give the logits: one, or none if unknown, or several.

    Attributes:
        taps: The canonical taps, by paths within this module (``body. ...``).
        heads: The same for the classifiers.
        folded: Paths of BatchNorms that :func:`kdbench.models.memory_traffic.optimize_for_inference` made parts of
            convolutions.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        *,
        name: str,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        taps: Mapping[str, Tap],
        heads: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.body = body
        self.name = name
        self.num_classes = num_classes
        self.folded: tuple[str, ...] = ()
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1))
        self.heads = tuple(map(_inside, heads))
        self.taps = {key: Tap(_inside(tap.path), tap.io) for key, tap in taps.items()}
        if pooling := find_pooling(body):
            self.taps.setdefault("last_map", Tap(_inside(pooling), "input"))
        if self.heads and "pooled" not in taps:
            self.taps["pooled"] = Tap(self.heads[0], "input")
        self.taps.setdefault("logits", Tap("body"))

    @property
    def head(self) -> str | None:
        """Path of the classifier module (of the first, if there are several), or None if unknown."""
        return self.heads[0] if self.heads else None

    def graft(self, head: nn.Linear, projector: nn.Module | None = None) -> None:
        """Replaces the classifier, and puts ``projector`` before the global average pooling, if it is given.

        Raises:
            ConfigError: There is no such pooling, or not one classifier.
        """
        if "last_map" not in self.taps or len(self.heads) != 1:
            raise ConfigError(f"{self.name}: no global average pooling with one classifier behind it, to be replaced")
        if projector is not None:
            path = self.taps["last_map"].path
            self.set_submodule(path, nn.Sequential(projector, self.get_submodule(path)))
            self.taps["last_map"] = Tap(f"{path}.1", "input")
        self.set_submodule(self.heads[0], head)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits `(B, C)`.

        Args:
            inputs: Pixels in [0, 1], `(B, C, H, W)`, not normalised, in any memory format.

        Raises:
            ConfigError: The body returns something else than a tensor.
        """
        output = self.body((inputs - self._spread(self.mean, inputs)) / self._spread(self.std, inputs))
        output = getattr(output, "logits", output)  # torchvision's networks with auxiliary heads name their main output
        if not isinstance(output, Tensor):
            raise ConfigError(f"{self.name}: its forward returns a {type(output).__name__}, logits (B, C) are expected")
        return output

    @staticmethod
    def _spread(values: Tensor, inputs: Tensor) -> Tensor:
        """One per channel, so that arithmetic with ``inputs`` runs through memory in one piece.

        Channels last, three numbers against all pixels would be done three at a time, seven times as slow.
        """
        if torch.compiler.is_compiling() or not inputs.is_contiguous(memory_format=torch.channels_last):
            return values
        return values.expand(1, *inputs.shape[1:]).contiguous(memory_format=torch.channels_last)


def _inside(path: str) -> str:
    return f"body.{path}"
