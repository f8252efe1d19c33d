"""Training loops as somebody would write them by hand: what kdbench is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

Loop = Callable[[int], None]  # so many steps
Batches = Sequence[tuple[Tensor, Tensor]]
TEMPERATURE, TASK, KD = 4.0, 0.1, 0.9


def _optimizer(student: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def bare_loop(
    teacher: nn.Module,
    student: nn.Module,
    batches: Batches,
    *,
    layout: torch.memory_format = torch.contiguous_format,
    autocast: torch.dtype | None = None,
    known: bool = False,
) -> Loop:
    """Teacher forward and student step on batches that lie ready, and nothing else: the limit.

    Args:
        teacher: In eval mode, under ``no_grad``.
        student: In train mode.
        batches: Pixels in [0, 1] and classes; each network normalises, as in kdbench.
        layout: Of weights and inputs.
        autocast: Precision of forward passes; ``None`` for float32.
        known: Whether the teacher's logits lie ready as well: the limit of a cache.
    """
    teacher, student = teacher.to(memory_format=layout).eval(), student.to(memory_format=layout).train()
    batches = [(inputs.contiguous(memory_format=layout), target) for inputs, target in batches]
    optimizer = _optimizer(student)

    @torch.no_grad()
    def ask(inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", autocast) if autocast else nullcontext():
            return teacher(inputs)

    answers = [ask(inputs) for inputs, _ in batches] if known else []

    def run(steps: int) -> None:
        for step in range(steps):
            inputs, target = batches[step % len(batches)]
            guide = answers[step % len(batches)] if known else ask(inputs)
            with torch.autocast("cpu", autocast) if autocast else nullcontext():
                logits = student(inputs)
                guide, logits = guide.float(), logits.float()
                soft = kl_div(log_softmax(logits / TEMPERATURE, 1), log_softmax(guide / TEMPERATURE, 1),
                              log_target=True, reduction="batchmean")  # fmt: skip
                loss = TASK * cross_entropy(logits, target) + KD * TEMPERATURE**2 * soft
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def takd_loop(teacher: nn.Module, student: nn.Module, batches: Batches) -> Loop:
    """TAKD's released behaviour: the teacher is in eval mode, but a gradient graph is built through it and run back.

    Source: Mirzadeh et al. 2020, arXiv:1902.03393, released code.
    """
    teacher, student = teacher.requires_grad_(True).eval(), student.train()
    optimizer = _optimizer(student)

    def run(steps: int) -> None:
        for step in range(steps):
            inputs, target = batches[step % len(batches)]
            optimizer.zero_grad()
            logits, guide = student(inputs), teacher(inputs)
            soft = kl_div(log_softmax(logits / TEMPERATURE, 1), softmax(guide / TEMPERATURE, 1), reduction="batchmean")
            loss = TASK * cross_entropy(logits, target) + KD * TEMPERATURE**2 * soft
            loss.backward()
            optimizer.step()

    return run


def repdistiller_loop(teacher: nn.Module, student: nn.Module, batches: Batches) -> Loop:
    """RepDistiller's step: teacher under ``no_grad``; loss and both accuracies are read back at every step.

    Data lie ready, which flatters it: its own path augments sample by sample (see ``scripts/bench data``).

    Source: Tian et al. 2020, arXiv:1910.10699, released code.
    """
    teacher, student = teacher.eval(), student.train()
    optimizer = _optimizer(student)
    read: list[float] = []

    def run(steps: int) -> None:
        for step in range(steps):
            inputs, target = batches[step % len(batches)]
            logits = student(inputs)
            with torch.no_grad():
                guide = teacher(inputs)
            soft = kl_div(log_softmax(logits / TEMPERATURE, 1), softmax(guide / TEMPERATURE, 1), reduction="batchmean")
            loss = TASK * cross_entropy(logits, target) + KD * TEMPERATURE**2 * soft
            hits = logits.topk(5).indices.eq(target[:, None])
            read[:] = [loss.item(), hits[:, 0].float().sum().item(), hits.any(1).float().sum().item()]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run
