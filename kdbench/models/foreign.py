"""Names of weights in the files of other projects, and what they are called here.

The benchmarks of distillation share their networks: RepDistiller and mdistiller name modules alike, and the CIFAR
ResNets of many others, TAKD's among them, are named as theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from kdbench.models.cifar_resnet import CifarResNet
from kdbench.models.four_stage_resnet import FourStageResNet
from kdbench.models.mobilenet_v2 import MobileNetV2
from kdbench.models.shufflenet_v1 import ShuffleNetV1
from kdbench.models.shufflenet_v2 import ShuffleNetV2
from kdbench.models.vgg import VGG
from kdbench.models.wrn import WideResNet

Rules = tuple[tuple[str, str], ...]  # pattern and replacement, as re.sub takes them; each reads what the last wrote


def _numbered(places: Sequence[str], *, block: str = "") -> Rules:
    """``conv1``, ``bn1``, ``conv2``, ... of the blocks whose path ends like ``block`` stand at our ``places``."""
    parts = (("conv", "conv"), ("bn", "norm"))
    return tuple(
        (rf"({block})\.{part}{number}\.", rf"\1.{place}.{own}.")
        for number, place in enumerate(places, start=1)
        for part, own in parts
    )


def _in_a_row(sequence: str, places: Sequence[str]) -> Rules:
    """Children 0, 1, 3, 4, ... of ``sequence``, each convolution, BatchNorm and ReLU counted, stand at ``places``."""
    return tuple(
        (rf"{sequence}\.{3 * number + offset}\.", rf"{place}.{own}.")
        for number, place in enumerate(places)
        for offset, own in enumerate(("conv", "norm"))
    )


_HEAD: Rules = ((r"^(fc|linear|classifier)\.(0\.)?", "fc."),)
_STAGES: Rules = tuple((rf"^(layer|block){number + 1}\.(layer\.)?", f"stages.{number}.") for number in range(4))
_STEM: Rules = ((r"^conv1\.", "stem.conv."), (r"^bn1\.", "stem.norm."))
_BLOCKS: Rules = (*_STAGES, (r"\.bn(\d)\.", r".norm\1."), (r"\.(downsample|convShortcut)\.", ".shortcut."))
_BARE_STEM: Rules = ((r"^conv1\.", "conv."), (r"^bn1\.", "norm."))

_RULES: Mapping[type[nn.Module], Rules] = {
    CifarResNet: _BARE_STEM + _BLOCKS + _HEAD,
    WideResNet: _BARE_STEM + _BLOCKS + _HEAD,
    FourStageResNet: _STEM + _BLOCKS + _HEAD,
    VGG: _in_a_row(r"^block(\d)", [rf"stages.\1.{number}" for number in range(4)]) + _HEAD,
    MobileNetV2: (
        *_in_a_row("^conv1", ["stem"]),
        *_in_a_row("^conv2", ["last"]),
        *_in_a_row(
            r"^blocks\.(\d)\.(\d)\.conv", [rf"groups.\1.\2.{name}" for name in ("expand", "depthwise", "project")]
        ),
        *_HEAD,
    ),
    ShuffleNetV1: _STEM + _STAGES + _numbered(["reduce", "depthwise", "expand"]) + _HEAD,
    ShuffleNetV2: (
        *_STEM,
        (r"^conv2\.", "last.conv."),
        (r"^bn2\.", "last.norm."),
        *_STAGES,
        *_numbered(["left.0", "left.1", "right.0", "right.1", "right.2"], block=r"^stages\.\d\.0"),
        *_numbered(["right.0", "right.1", "right.2"]),
        *_HEAD,
    ),
}


def translated(state: Mapping[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """``state`` under the names that ``body`` uses; names that are ours already, or unknown, stay.

    Args:
        state: Named tensors without a common prefix.
        body: One of our networks; of others nothing is known, and nothing is renamed.
    """
    rules = _RULES.get(type(body), ())
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed
