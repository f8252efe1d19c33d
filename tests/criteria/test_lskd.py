import math

import numpy as np
import pytest
import torch

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria import KD
from kdbench.criteria.dkd import DKD
from kdbench.criteria.lskd import LSKD, StandardizedDKD, standardize

BATCH = Batch(torch.zeros(5, 1), torch.tensor([0, 3, 2, 1, 3]), torch.arange(5))
PAIRS = [pytest.param(LSKD, KD, id="kd"), pytest.param(StandardizedDKD, DKD, id="dkd")]


def draw(count, classes=4, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    return [scale * torch.randn(5, classes, generator=generator, dtype=dtype) for _ in range(count)]


def terms(criterion, student, *teachers):
    return criterion(ModelOutput(student, {}), [ModelOutput(teacher, {}) for teacher in teachers], BATCH)


def total(*arguments):
    return torch.stack(list(terms(*arguments).values())).sum()


def oracle(logits):
    """The definition again, by loops."""
    rows = []
    for row in np.asarray(logits):
        mean = sum(row) / len(row)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in row) / (len(row) - 1))
        rows.append([(value - mean) / (deviation + 1e-7) for value in row])
    return torch.tensor(rows, dtype=torch.float64)


def kd_oracle(student, teacher, temperature):
    loss = 0.0
    for s, t in zip(oracle(student).tolist(), oracle(teacher).tolist(), strict=True):
        p, q = ([math.exp(value / temperature) for value in row] for row in (t, s))
        loss += sum(pc / sum(p) * math.log(pc / sum(p) * sum(q) / qc) for pc, qc in zip(p, q, strict=True))
    return temperature**2 * loss / len(student)


def test_standardized_logits_equal_the_definition():
    (logits,) = draw(1)
    torch.testing.assert_close(standardize(logits), oracle(logits), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("temperature", [2.0, 4.0])
def test_lskd_equals_the_definition(temperature):
    student, teacher = draw(2)
    computed = terms(LSKD(temperature=temperature), student, teacher)["kd"]
    assert computed.item() == pytest.approx(kd_oracle(student, teacher, temperature), rel=1e-9)


@pytest.mark.parametrize(("standardized", "plain"), PAIRS)
def test_standardized_criterion_is_the_plain_one_on_standardized_logits_of_both_sides(standardized, plain):
    student, teacher = draw(2)
    expected = terms(plain(temperature=2.0), oracle(student), oracle(teacher))
    torch.testing.assert_close(terms(standardized(temperature=2.0), student, teacher), expected)
    assert standardized.terms == plain.terms
    assert standardized.teachers is plain.teachers


@pytest.mark.parametrize(("standardized", "plain"), PAIRS)
def test_only_the_plain_criterion_sees_a_positive_affine_change_of_each_sample(standardized, plain):
    student, teacher = draw(2)
    changed = torch.arange(1, 6).double().unsqueeze(1) * student - 3.0
    torch.testing.assert_close(
        terms(standardized(), changed, teacher), terms(standardized(), student, teacher), rtol=1e-5, atol=0
    )
    assert (total(plain(), changed, teacher) - total(plain(), student, teacher)).abs() > 0.1


@pytest.mark.parametrize("standardized", [LSKD, StandardizedDKD])
def test_gradient_equals_finite_differences(standardized):
    student, teacher = draw(2)
    assert torch.autograd.gradcheck(lambda logits: total(standardized(), logits, teacher), student.requires_grad_())


@pytest.mark.parametrize("standardized", [LSKD, StandardizedDKD])
@pytest.mark.parametrize("scale", [0.0, 200.0, 2000.0])
def test_finite_at_constant_and_extreme_logits_in_value_and_gradient(standardized, scale):
    student, teacher = draw(2, classes=100, scale=scale, dtype=torch.float32)
    loss = total(standardized(), student.requires_grad_(), teacher)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_lskd_sends_no_gradient_to_its_teachers_and_averages_them_standardized():
    student, *teachers = (logits.requires_grad_() for logits in draw(3))
    total(LSKD(), student, *teachers).backward()
    assert student.grad is not None
    assert all(teacher.grad is None for teacher in teachers)
    scaled = [3.0 * teachers[0], teachers[1]]
    torch.testing.assert_close(total(LSKD(), student, *scaled), total(LSKD(), student, *teachers), rtol=1e-5, atol=1e-7)


def test_half_precision_logits_are_standardized_in_float32_under_autocast():
    student, teacher = (logits.bfloat16() for logits in draw(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = total(LSKD(), student, teacher)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, total(LSKD(), student.float(), teacher.float()))


@pytest.mark.parametrize("standardized", [LSKD, StandardizedDKD])
def test_a_few_steps_alone_shrink_it(standardized):
    student, teacher = draw(2)
    student.requires_grad_()
    optimizer = torch.optim.SGD([student], lr=3.0)
    losses = []
    for _ in range(5):
        loss = total(standardized(), student, teacher)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.95 * losses[0]


def test_lskd_refuses_a_wrong_temperature():
    with pytest.raises(ConfigError, match=r"kd\.temperature=0: a number"):
        LSKD(temperature=0)
