import math

import pytest
import torch

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria.tf_kd import TfKD, virtual_teacher

TARGET = torch.tensor([0, 3, 2, 1, 3])
BATCH = Batch(torch.zeros(5, 1), TARGET, torch.arange(5))


def draw(classes=4, scale=2.0, dtype=torch.float64):
    return scale * torch.randn(5, classes, generator=torch.Generator().manual_seed(3), dtype=dtype)


def term(logits, teachers=(), **options):
    return TfKD(**options)(ModelOutput(logits, {}), teachers, BATCH)["tf_kd"]


def softmax(row, temperature):
    total = sum(math.exp(value / temperature) for value in row)
    return [math.exp(value / temperature) / total for value in row]


@pytest.mark.parametrize("on", ["both", "teacher"])
@pytest.mark.parametrize("reduction", ["batchmean", "elementwise_mean"])
def test_tf_kd_equals_the_definition(on, reduction):
    total = 0.0
    for row, true in zip(draw().tolist(), TARGET.tolist(), strict=True):
        guide = softmax([0.9 if c == true else 0.1 / 3 for c in range(4)], 5.0)
        own = softmax(row, 5.0 if on == "both" else 1.0)
        total += sum(p * math.log(p / q) for p, q in zip(guide, own, strict=True))
    expected = total / 5 if reduction == "batchmean" else total / 20
    found = term(draw(), correct=0.9, temperature=5.0, temperature_on=on, reduction=reduction)
    assert found.item() == pytest.approx(expected, rel=1e-5)  # the virtual teacher is in float32


def test_virtual_teacher_is_a_distribution_that_is_right():
    made = virtual_teacher(TARGET, 4, correct=0.7)
    torch.testing.assert_close(made.sum(1), torch.ones(5))
    assert torch.equal(made.argmax(1), TARGET)
    torch.testing.assert_close(made.max(1).values, torch.full((5,), 0.7))


def test_tf_kd_gradient_equals_finite_differences():
    assert torch.autograd.gradcheck(term, draw().requires_grad_())


def test_tf_kd_is_finite_at_extreme_logits_in_value_and_gradient():
    logits = draw(scale=2000.0, dtype=torch.float32).requires_grad_()
    loss = term(logits)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_tf_kd_does_not_look_at_a_teacher():
    assert term(draw(), [ModelOutput(torch.full((5, 4), float("nan")), {})]) == term(draw())


def test_a_few_steps_on_tf_kd_alone_shrink_it():
    logits = draw().requires_grad_()
    optimizer = torch.optim.SGD([logits], lr=1000.0)
    losses = []
    for _ in range(5):
        loss = term(logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"correct": 1.0}, "tf_kd.correct=1.0: a number between 0 and 1"),
        ({"temperature": 0}, "tf_kd.temperature=0: a number"),
        ({"temperature_on": "student"}, "tf_kd.temperature_on=student: unknown"),
        ({"reduction": "sum"}, "tf_kd.reduction=sum: unknown"),
    ],
)
def test_tf_kd_refuses_a_wrong_option(options, message):
    with pytest.raises(ConfigError, match=message):
        TfKD(**options)
