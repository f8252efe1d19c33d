import math

import numpy as np
import pytest
import torch

from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria import LabelSmoothing
from kdbench.criteria.confidence_penalty import ConfidencePenalty

BATCH = Batch(torch.zeros(5, 1), torch.tensor([0, 3, 2, 1, 3]), torch.arange(5))


def draw(classes=4, scale=2.0, dtype=torch.float64):
    return scale * torch.randn(5, classes, generator=torch.Generator().manual_seed(3), dtype=dtype)


def term(logits, teachers=()):
    return ConfidencePenalty()(ModelOutput(logits, {}), teachers, BATCH)["confidence_penalty"]


def oracle(logits):
    """The definition again, by loops."""
    total = 0.0
    for row in np.asarray(logits):
        p = [math.exp(value) / sum(math.exp(other) for other in row) for value in row]
        total += sum(pc * math.log(pc) for pc in p)
    return total / len(logits)


def test_confidence_penalty_equals_the_definition():
    assert term(draw()).item() == pytest.approx(oracle(draw()), rel=1e-9)


def test_confidence_penalty_gradient_equals_finite_differences():
    assert torch.autograd.gradcheck(term, draw().requires_grad_())


def test_confidence_penalty_runs_from_minus_log_classes_to_zero():
    assert term(torch.zeros(5, 4)).item() == pytest.approx(-math.log(4))
    assert term(1e4 * torch.eye(5)).item() == 0


def test_confidence_penalty_never_asks_for_the_label_as_label_smoothing_does():
    other = BATCH._replace(target=(BATCH.target + 1) % 4)
    values = [ConfidencePenalty()(ModelOutput(draw(), {}), (), batch)["confidence_penalty"] for batch in (BATCH, other)]
    assert values[0] == values[1]
    smoothed = [LabelSmoothing()(ModelOutput(draw(), {}), (), batch)["label_smoothing"] for batch in (BATCH, other)]
    assert smoothed[0] != smoothed[1]


def test_confidence_penalty_is_finite_at_extreme_logits_in_value_and_gradient():
    logits = draw(classes=100, scale=200.0, dtype=torch.float32).requires_grad_()
    loss = term(logits)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_confidence_penalty_does_not_look_at_a_teacher():
    teacher = ModelOutput(torch.full((5, 4), float("nan")), {})
    assert term(draw(), [teacher]) == term(draw())


def test_a_few_steps_on_the_penalty_alone_shrink_it():
    logits = draw().requires_grad_()
    optimizer = torch.optim.SGD([logits], lr=0.5)
    losses = []
    for _ in range(5):
        loss = term(logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.01


def test_confidence_penalty_takes_no_options():
    with pytest.raises(TypeError, match="epsilon"):
        ConfidencePenalty(epsilon=0.1)  # pyright: ignore[reportCallIssue]
