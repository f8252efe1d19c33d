import math

import numpy as np
import pytest
import torch

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria import MatchedSmoothing
from kdbench.criteria._functional import kd_loss, log_probabilities
from kdbench.criteria.matched_smoothing import without_dark_knowledge

TARGET = torch.tensor([0, 1, 2, 3, 0])


def draw(seed, classes=4, scale=2.0, dtype=torch.float64):
    return scale * torch.randn(5, classes, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def term(student, teacher, temperature=4.0, target=TARGET):
    batch = Batch(torch.zeros(len(target), 1), target, torch.arange(len(target)))
    criterion = MatchedSmoothing(temperature=temperature)
    return criterion(ModelOutput(student, {}), [ModelOutput(teacher, {})], batch)["matched_smoothing"]


def oracle(student, teacher, temperature):
    """By loops: what the teacher leaves to the wrong classes is divided evenly among them."""

    def softmax(row):
        powers = [math.exp(value / temperature) for value in row]
        return [power / sum(powers) for power in powers]

    total = 0.0
    for z_s, z_t, true in zip(np.asarray(student), np.asarray(teacher), TARGET.tolist(), strict=True):
        p_s, p_t = softmax(z_s), softmax(z_t)
        for c in range(len(z_s)):
            aim = p_t[c] if c == true else (1 - p_t[true]) / (len(z_s) - 1)
            total += aim * (math.log(aim) - math.log(p_s[c]))
    return temperature**2 * total / len(TARGET)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_matched_smoothing_equals_the_definition(temperature):
    assert term(draw(1), draw(2), temperature).item() == pytest.approx(oracle(draw(1), draw(2), temperature), rel=1e-9)


def test_targets_are_distributions_as_sure_of_the_label_as_the_teacher():
    log_p = log_probabilities(draw(2), 4.0)
    q = without_dark_knowledge(log_p, TARGET).exp()
    torch.testing.assert_close(q.sum(1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(q.gather(1, TARGET[:, None]), log_p.exp().gather(1, TARGET[:, None]))


def test_the_order_of_wrong_classes_makes_no_difference():
    teacher = draw(2)
    swapped = teacher.clone()
    swapped[1, [0, 2]] = teacher[1, [2, 0]]
    torch.testing.assert_close(term(draw(1), swapped), term(draw(1), teacher))
    assert not torch.isclose(kd_loss(draw(1), swapped, temperature=4.0), kd_loss(draw(1), teacher, temperature=4.0))


def test_matched_smoothing_is_distillation_where_there_is_no_dark_knowledge():
    teacher = torch.zeros(5, 4, dtype=torch.float64).scatter(1, TARGET[:, None], 3.0)
    torch.testing.assert_close(term(draw(1), teacher), kd_loss(draw(1), teacher, temperature=4.0))


def test_matched_smoothing_gradient_equals_finite_differences():
    assert torch.autograd.gradcheck(lambda logits: term(logits, draw(2)), draw(1).requires_grad_())


def test_matched_smoothing_is_finite_at_extreme_logits():
    student = draw(1, 100, 200.0, torch.float32).requires_grad_()
    loss = term(student, draw(2, 100, 200.0, torch.float32))
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_a_few_steps_on_matched_smoothing_alone_shrink_it():
    student = draw(1).requires_grad_()
    optimizer = torch.optim.SGD([student], lr=2.0)
    losses = []
    for _ in range(5):
        loss = term(student, draw(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_matched_smoothing_refuses_a_wrong_temperature():
    with pytest.raises(ConfigError, match=r"matched_smoothing\.temperature=0"):
        MatchedSmoothing(temperature=0)
