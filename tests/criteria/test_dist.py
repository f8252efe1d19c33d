import math

import numpy as np
import pytest
import torch

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria.dist import DIST, correlation

BATCH = Batch(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))


def draw(count, samples=5, classes=4, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    return [scale * torch.randn(samples, classes, generator=generator, dtype=dtype) for _ in range(count)]


def terms(student, teacher, **options):
    return DIST(**options)(ModelOutput(student, {}), [ModelOutput(teacher, {})], BATCH)


def oracle(student, teacher, temperature):
    """The definition again, by loops over rows, columns and their entries."""

    def softmax(row):
        exponentials = [math.exp(value / temperature) for value in row]
        return [value / sum(exponentials) for value in exponentials]

    def pearson(a, b):
        mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
        covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
        norm_a, norm_b = (math.sqrt(sum((x - m) ** 2 for x in v)) for v, m in ((a, mean_a), (b, mean_b)))
        return covariance / (norm_a * norm_b + 1e-8)

    own, guide = ([softmax(row) for row in np.asarray(logits)] for logits in (student, teacher))
    rows = [pearson(a, b) for a, b in zip(own, guide, strict=True)]
    columns = [pearson(a, b) for a, b in zip(zip(*own, strict=True), zip(*guide, strict=True), strict=True)]
    means = {"inter": sum(rows) / len(rows), "intra": sum(columns) / len(columns)}
    return {name: temperature**2 * (1 - mean) for name, mean in means.items()}


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_equals_the_definition(temperature):
    student, teacher = draw(2)
    computed = {name: term.item() for name, term in terms(student, teacher, temperature=temperature).items()}
    assert computed == pytest.approx(oracle(student, teacher, temperature), rel=1e-9)


@pytest.mark.parametrize("name", DIST.terms)
def test_dist_gradient_equals_finite_differences(name):
    student, teacher = draw(2)
    assert torch.autograd.gradcheck(lambda logits: terms(logits, teacher)[name], student.requires_grad_())


def test_dist_of_equal_predictions_is_nearly_zero():
    (logits,) = draw(1, samples=64, classes=100, scale=3.0, dtype=torch.float32)
    assert all(0 <= term < 1e-3 for term in terms(logits, logits, temperature=1.0).values())


def test_epsilon_alone_keeps_the_correlation_of_equal_columns_below_one():
    (logits,) = draw(1, samples=8, classes=100, scale=6.0)
    columns = logits.softmax(dim=1).T
    assert 1 - correlation(columns, columns).mean() > 1e-3
    assert 1 - correlation(columns, columns, eps=0.0).mean() == pytest.approx(0.0, abs=1e-12)


def test_correlation_ignores_a_positive_affine_change_of_each_row():
    student, teacher = draw(2)
    changed = torch.rand(5, 1, dtype=torch.float64).add(0.5) * student + torch.randn(5, 1, dtype=torch.float64)
    torch.testing.assert_close(correlation(changed, teacher, eps=0.0), correlation(student, teacher, eps=0.0))
    torch.testing.assert_close(correlation(-student, teacher), -correlation(student, teacher))


def test_correlation_of_a_constant_is_zero_with_a_finite_gradient():
    constant = torch.full((1, 4), 0.25, requires_grad=True)
    value = correlation(constant, torch.tensor([[0.7, 0.1, 0.1, 0.1]]))
    value.sum().backward()
    assert value.item() == 0
    assert constant.grad is not None
    assert constant.grad.isfinite().all()


def test_intra_is_inter_of_the_transposed_predictions():
    own, guide = (logits.log_softmax(dim=1) for logits in draw(2, samples=4))
    # Rows and columns of these sum to 1, so that their logarithms are logits of themselves either way.
    for _ in range(200):
        own, guide = (each.log_softmax(dim=0).log_softmax(dim=1) for each in (own, guide))
    straight, turned = terms(own, guide, temperature=1.0), terms(own.T, guide.T, temperature=1.0)
    torch.testing.assert_close(straight["intra"], turned["inter"])
    torch.testing.assert_close(straight["inter"], turned["intra"])
    assert (straight["inter"] - straight["intra"]).abs() > 1e-4


def test_dist_correlates_probabilities_and_not_logits():
    student, teacher = draw(2)
    of_logits = 16 * (1 - correlation(student, teacher).mean())
    assert (terms(student, teacher)["inter"] - of_logits).abs() > 1e-2


def test_dist_carries_the_squared_temperature():
    student, teacher = draw(2)
    sharp, soft = terms(student, teacher, temperature=1.0), terms(4 * student, 4 * teacher, temperature=4.0)
    torch.testing.assert_close(soft, {name: 16 * term for name, term in sharp.items()})


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("samples", [1, 5])
def test_dist_is_finite_at_extreme_logits_in_value_and_gradient(samples, temperature):
    student, teacher = draw(2, samples=samples, classes=100, scale=200.0, dtype=torch.float32)
    computed = terms(student.requires_grad_(), teacher, temperature=temperature)
    torch.stack(list(computed.values())).sum().backward()
    assert all(term.isfinite() for term in computed.values())
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_dist_sends_no_gradient_to_its_teacher():
    student, teacher = (logits.requires_grad_() for logits in draw(2))
    torch.stack(list(terms(student, teacher).values())).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_dist_of_half_precision_logits_is_computed_in_float32_under_autocast():
    student, teacher = (logits.bfloat16() for logits in draw(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        computed = terms(student, teacher)
    assert {term.dtype for term in computed.values()} == {torch.float32}
    torch.testing.assert_close(computed, terms(student.float(), teacher.float()))


@pytest.mark.parametrize("name", DIST.terms)
def test_a_few_steps_on_either_term_alone_shrink_it(name):
    student, teacher = draw(2)
    student.requires_grad_()
    optimizer = torch.optim.SGD([student], lr=0.3)
    losses = []
    for _ in range(5):
        loss = terms(student, teacher)[name]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("temperature", [0, "4"])
def test_dist_refuses_a_wrong_temperature(temperature):
    with pytest.raises(ConfigError, match=f"dist.temperature={temperature}: a number"):
        DIST(temperature=temperature)
