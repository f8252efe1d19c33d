"""What ``dataset.augment`` may be: views, and the mixes of two samples. Needs no torch, so the plan can do without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdbench.core.errors import nearest

# Options of each, beside `version`. Views run in this order, however the user's list is sorted: it is the one of the
# papers, and two spellings of the same training have one digest.
VIEW_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "crop_flip": ("padding",),
    "crop": ("padding",),
    "flip": ("prob",),
    "color_jitter": ("brightness", "contrast", "saturation", "hue"),
    "randaugment": ("ops", "magnitude", "bins"),
    "trivialaugment": ("bins",),
    "erasing": ("prob", "area", "aspect", "fill"),
}
# Made where photos are decoded, before all views.
DECODE_OPTIONS: Mapping[str, tuple[str, ...]] = {"resized_crop": ("area", "aspect")}
MIX_OPTIONS: Mapping[str, tuple[str, ...]] = {"mixup": ("alpha", "prob"), "cutmix": ("alpha", "prob")}
OPTIONS: Mapping[str, tuple[str, ...]] = {"none": (), **DECODE_OPTIONS, **VIEW_OPTIONS, **MIX_OPTIONS}
FILLS = ("noise", "black")

_MOST = float("inf")
_RANGES: Mapping[str, tuple[float, float]] = {  # of numbers, and of both ends of intervals; bounds included
    "padding": (0, _MOST),
    "prob": (0, 1),
    "brightness": (0, _MOST),
    "contrast": (0, _MOST),
    "saturation": (0, _MOST),
    "hue": (0, 0.5),
    "ops": (1, _MOST),
    "magnitude": (0, _MOST),
    "bins": (2, _MOST),
    "area": (0, 1),
    "aspect": (0.01, 100),
    "alpha": (0.01, 100),
}
_WHOLE = ("padding", "ops", "magnitude", "bins")
_INTERVALS = ("area", "aspect")


def mixes_of(augment: Mapping[str, Any]) -> tuple[str, ...]:
    """What of ``dataset.augment`` mixes two samples, so that none has one label any more."""
    return tuple(name for name in MIX_OPTIONS if name in augment)


def augment_problems(augment: Any) -> Iterator[str]:
    """What is wrong with the node ``dataset.augment``, one line each."""
    if not isinstance(augment, Mapping) or not augment:
        yield ("dataset.augment: which views? dataset.augment=[crop_flip,randaugment], say, or none; a dataset's YAML "
               "chooses them in its defaults")  # fmt: skip
        return
    if "none" in augment and len(augment) > 1:
        yield f"dataset.augment: none stands alone, not beside {', '.join(name for name in augment if name != 'none')}"
    for name, options in augment.items():
        if name not in OPTIONS:
            yield f"dataset.augment={name}: unknown{nearest(str(name), OPTIONS)}"
        elif missing := [key for key in OPTIONS[name] if key not in options]:
            yield f"dataset.augment.{name}: needs {', '.join(missing)}; choose it with dataset.augment=[{name}]"
        else:
            yield from _problems(name, options)


def _problems(name: str, options: Mapping[str, Any]) -> Iterator[str]:
    where = f"dataset.augment.{name}"
    for key in options:
        if key not in ("version", *OPTIONS[name]):
            yield f"{where}.{key}: unknown{nearest(key, OPTIONS[name])}"
    for key in OPTIONS[name]:
        if key != "fill" and (problem := _out_of_range(key, options[key])):
            yield f"{where}.{key}={options[key]}: {problem}"
    if "fill" in options and options["fill"] not in FILLS:
        yield f"{where}.fill={options['fill']}: unknown{nearest(str(options['fill']), FILLS)}"
    if name == "randaugment" and options["magnitude"] >= options["bins"]:
        yield f"{where}.magnitude={options['magnitude']}: must be below {where}.bins={options['bins']}"


def _out_of_range(key: str, value: Any) -> str | None:
    least, most = _RANGES[key]
    bounds = f"{least:g} or more" if most == _MOST else f"in [{least:g}, {most:g}]"
    kinds = int if key in _WHOLE else (int, float)
    if key not in _INTERVALS:
        good = isinstance(value, kinds) and not isinstance(value, bool) and least <= value <= most
        return None if good else f"must be {bounds}"
    pair = isinstance(value, list) and len(value) == 2 and all(isinstance(end, int | float) for end in value)
    good = pair and least <= value[0] <= value[1] <= most
    return None if good else f"must be [least, most], both {bounds}"
