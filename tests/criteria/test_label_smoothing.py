import math

import numpy as np
import pytest
import torch
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria import LabelSmoothing
from kdbench.criteria.label_smoothing import smoothed_cross_entropy

TARGET = torch.tensor([0, 1, 2, 3, 0])
CONVENTIONS = ("uniform", "others")


def draw(classes=4, scale=2.0, dtype=torch.float64):
    return scale * torch.randn(5, classes, generator=torch.Generator().manual_seed(3), dtype=dtype)


def term(criterion, logits, teachers=()):
    batch = Batch(torch.zeros(5, 1), TARGET, torch.arange(5))
    return criterion(ModelOutput(logits, {}), teachers, batch)["label_smoothing"]


def oracle(logits, target, epsilon, convention):
    """Cross-entropy with the smoothed target written out, by loops."""
    logits = np.asarray(logits)
    classes, total = logits.shape[1], 0.0
    for row, true in zip(logits, target.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        for c in range(classes):
            if convention == "uniform":
                aim = epsilon / classes + (1 - epsilon) * (c == true)
            else:
                aim = 1 - epsilon if c == true else epsilon / (classes - 1)
            total -= aim * (row[c] - log_sum)
    return total / len(logits)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("epsilon", [0.1, 0.6])
def test_label_smoothing_equals_the_definition(epsilon, convention):
    loss = term(LabelSmoothing(epsilon=epsilon, convention=convention), draw())
    assert loss.item() == pytest.approx(oracle(draw(), TARGET, epsilon, convention), rel=1e-9)


def test_uniform_convention_is_that_of_pytorch():
    theirs = nn.functional.cross_entropy(draw(), TARGET, label_smoothing=0.15)
    torch.testing.assert_close(term(LabelSmoothing(epsilon=0.15), draw()), theirs)


def test_conventions_agree_after_conversion_of_epsilon():
    uniform = term(LabelSmoothing(epsilon=0.2), draw())
    torch.testing.assert_close(term(LabelSmoothing(epsilon=0.2 * 3 / 4, convention="others"), draw()), uniform)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_no_smoothing_is_the_plain_cross_entropy(convention):
    loss = smoothed_cross_entropy(draw(), TARGET, epsilon=0.0, convention=convention)
    torch.testing.assert_close(loss.mean(), nn.functional.cross_entropy(draw(), TARGET))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_label_smoothing_gradient_equals_finite_differences(convention):
    criterion = LabelSmoothing(convention=convention)
    assert torch.autograd.gradcheck(lambda logits: term(criterion, logits), draw().requires_grad_())


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_label_smoothing_is_finite_at_extreme_logits(convention):
    logits = draw(classes=100, scale=200.0, dtype=torch.float32).requires_grad_()
    loss = term(LabelSmoothing(convention=convention), logits)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_label_smoothing_does_not_look_at_a_teacher():
    teacher = ModelOutput(torch.full((5, 4), float("nan")), {})
    torch.testing.assert_close(term(LabelSmoothing(), draw(), [teacher]), term(LabelSmoothing(), draw()))


def test_a_few_steps_on_label_smoothing_alone_shrink_it():
    logits = draw().requires_grad_()
    optimizer = torch.optim.SGD([logits], lr=0.5)
    losses = []
    for _ in range(5):
        loss = term(LabelSmoothing(), logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 1.0}, "label_smoothing.epsilon=1.0: a number between 0 and 1"),
        ({"epsilon": True}, "label_smoothing.epsilon=True: a number"),
        ({"convention": "other"}, "label_smoothing.convention=other: unknown; did you mean 'others'"),
    ],
)
def test_label_smoothing_refuses_a_wrong_option(options, message):
    with pytest.raises(ConfigError, match=message):
        LabelSmoothing(**options)
