"""Optimisers from their YAML, and learning-rate schedules as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from kdbench.core.errors import ConfigError, nearest
from kdbench.core.targets import check_arguments, resolve_target
from kdbench.core.types import Progress


def constant(progress: Progress) -> float:
    """The learning rate as it is."""
    return 1.0


def one_cycle(progress: Progress, *, warmup: float, start: float, end: float) -> float:
    r"""Linearly up from ``start`` to 1, then linearly down to ``end``.

    With N steps in all, the peak lies at step :math:`wN - 1` (for ``warmup`` :math:`w`) and ``end`` at :math:`N - 1`.

    Args:
        progress: The step.
        warmup: Fraction of the training on the way up, in [0, 1).
        start: Factor at the first step; PyTorch's ``1 / div_factor``.
        end: Factor at the last step; PyTorch's ``1 / (div_factor * final_div_factor)``.

    Raises:
        ConfigError: ``warmup`` is out of range.

    Source: Smith & Topin 2017, arXiv:1708.07120; equal to PyTorch's ``OneCycleLR(anneal_strategy="linear")``.
    """
    if not 0 <= warmup < 1:
        raise ConfigError(f"optim.schedule.warmup={warmup:g}: a fraction of the training in [0, 1) is expected")
    last = progress.total_steps - 1
    step = min(progress.step, last)
    peak = warmup * progress.total_steps - 1
    if step < peak:
        return start + (1 - start) * step / peak
    return 1 + (end - 1) * (step - peak) / (last - peak)


def steps(progress: Progress, *, milestones: Sequence[float], gamma: float) -> float:
    """``gamma`` to the power of the milestones that have been reached.

    Args:
        progress: The step.
        milestones: In epochs.
        gamma: Factor at each.
    """
    return gamma ** sum(progress.epoch >= milestone for milestone in milestones)


def cosine(progress: Progress, *, warmup_epochs: float, end: float) -> float:
    r"""Linearly up over ``warmup_epochs``, then down along half a cosine.

    .. math:: e + (1 - e) \tfrac12 \bigl(1 + \cos \pi \tfrac{s - W}{N - W}\bigr), \qquad (s + 1) / W \text{ for } s < W

    with :math:`W` the steps of the warm-up, which ends at 1 and never starts at 0, and ``end`` :math:`e`.

    Args:
        progress: The step :math:`s` of :math:`N`.
        warmup_epochs: In epochs, 0 for none.
        end: Factor that is reached after the last step.

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, Eq. 5, without restarts; the warm-up of Goyal et al. 2017,
        arXiv:1706.02677, Sec. 2.2.
    """
    warmup = warmup_epochs * progress.steps_per_epoch
    if progress.step < warmup:
        return min((progress.step + 1) / warmup, 1.0)
    done = min((progress.step - warmup) / max(progress.total_steps - warmup, 1), 1.0)
    return end + (1 - end) * (1 + math.cos(math.pi * done)) / 2


_KINDS: Mapping[str, Callable[..., float]] = {
    "constant": constant,
    "one_cycle": one_cycle,
    "steps": steps,
    "cosine": cosine,
}


def make_optimizer(
    config: Mapping[str, Any],
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    trusted: Sequence[str] = (),
    *,
    where: str = "optim",
) -> Optimizer:
    """An optimiser from its YAML.

    Args:
        config: ``_target_``, the class's options, and the keys ``schedule`` and ``version``, which are not for it.
        parameters: What it updates: parameters, or groups of them.
        trusted: Packages of the user's own whose classes may be targets.
        where: The YAML's path, for error lines.

    Raises:
        ConfigError: The target is no optimiser, or an option is unknown, missing or refused by it.
    """
    options = {key: value for key, value in config.items() if key not in ("_target_", "schedule", "version")}
    optimizer = resolve_target(config["_target_"], base=Optimizer, trusted=trusted)
    check_arguments(optimizer, {"params": parameters, **options}, where=where)
    try:
        return optimizer(parameters, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {config['_target_']} refuses its options: {error}") from error


def _factor(schedule: Mapping[str, Any], where: str = "optim") -> Callable[[Progress], float]:
    options = dict(schedule)
    kind = str(options.pop("kind", ""))
    if kind not in _KINDS:
        raise ConfigError(f"{where}.schedule.kind={kind!r}: unknown{nearest(kind, _KINDS)}")
    check_arguments(_KINDS[kind], {"progress": None, **options}, where=f"{where}.schedule")
    return lambda progress: _KINDS[kind](progress, **options)


def lr_factor(schedule: Mapping[str, Any], step: int, total_steps: int, steps_per_epoch: int) -> float:
    """What the learning rate is multiplied by at ``step``, dimensionless.

    Args:
        schedule: ``kind`` (``constant``, ``one_cycle``, ``steps`` or ``cosine``) and every option of that kind.
        step: Optimiser steps done, from 0.
        total_steps: Optimiser steps of the whole training.
        steps_per_epoch: Optimiser steps per epoch.

    Raises:
        ConfigError: The kind or an option is unknown, missing or out of range.
    """
    return _factor(schedule)(Progress(step, total_steps, steps_per_epoch))


def make_scheduler(
    optimizer: Optimizer, schedule: Mapping[str, Any], total_steps: int, steps_per_epoch: int, *, where: str = "optim"
) -> LambdaLR:
    """The schedule as PyTorch's scheduler, to be stepped after every optimiser step.

    Raises:
        ConfigError: As :func:`lr_factor`.
    """
    factor = _factor(schedule, where)
    return LambdaLR(optimizer, lambda step: factor(Progress(step, total_steps, steps_per_epoch)))


def schedule_notes(schedule: Mapping[str, Any], max_epochs: int) -> list[str]:
    """What a reader of the plan should know: parts of the schedule that the training ends before, one line each."""
    notes = []
    if late := [f"{milestone:g}" for milestone in schedule.get("milestones", ()) if milestone >= max_epochs]:
        notes.append(f"optim.schedule.milestones: the training ends with epoch {max_epochs}, before {', '.join(late)}")
    if (warmup := schedule.get("warmup_epochs", 0)) and warmup >= max_epochs:
        notes.append(f"optim.schedule.warmup_epochs: {warmup} of {max_epochs} epochs leave none to train after it")
    return notes
