import itertools
import math

import numpy as np
import pytest
import torch

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria.cmkd import CMKD, difficulty, ranks
from kdbench.criteria.dist import correlation
from kdbench.criteria.lskd import standardize

BATCH = Batch(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
OPTIONS = {
    "space": ("logits", "probabilities"),
    "standardize": (True, False),
    "difficult": ("spearman", "pearson", "neither"),
}
GRID = [dict(zip(OPTIONS, values, strict=True)) for values in itertools.product(*OPTIONS.values())]


def draw(count, classes=6, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    return [scale * torch.randn(5, classes, generator=generator, dtype=dtype) for _ in range(count)]


def terms(student, teacher, **options):
    return CMKD(**options)(ModelOutput(student, {}), [ModelOutput(teacher, {})], BATCH)


def total(*arguments, **options):
    return torch.stack(list(terms(*arguments, **options).values())).sum()


def pearson(a, b):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return covariance / (np.linalg.norm(np.subtract(a, mean_a)) * np.linalg.norm(np.subtract(b, mean_b)) + 1e-8)


def hard_ranks(row):
    """Position in descending order, the mean position of equal values."""
    order = sorted(row, reverse=True)
    return [sum(i + 1 for i, other in enumerate(order) if other == value) / order.count(value) for value in row]


def oracle(student, teacher, *, space, standardize, difficult, softness=0.1, temperature=4.0):
    """The reconstruction again, by loops over samples and classes."""

    def softmax(row, temperature):
        exponentials = [math.exp(value / temperature) for value in row]
        return [value / sum(exponentials) for value in exponentials]

    def scores(row):
        return [(v - row.mean()) / (row.std(ddof=1) + 1e-7) for v in row] if standardize else list(row)

    sums = {"pearson": 0.0, "spearman": 0.0}
    for s, t in zip(np.asarray(student), np.asarray(teacher), strict=True):
        h = -sum(p * math.log(p) for p in softmax(t, 1.0)) / math.log(len(t))
        weights = {"spearman": (1 - h, h), "pearson": (h, 1 - h), "neither": (1, 1)}[difficult]
        s, t = scores(s), scores(t)
        values = (s, t) if space == "logits" else (softmax(s, temperature), softmax(t, temperature))
        soft = [1 + sum(1 / (1 + math.exp((a - b) / softness)) for j, b in enumerate(s) if j != i)
                for i, a in enumerate(s)]  # fmt: skip
        sums["pearson"] += weights[0] * (1 - pearson(*values)) / len(student)
        sums["spearman"] += weights[1] * (1 - pearson(soft, hard_ranks(t))) / len(student)
    return sums


@pytest.mark.parametrize("options", GRID, ids=str)
def test_cmkd_equals_the_definition(options):
    student, teacher = draw(2)
    computed = {name: term.item() for name, term in terms(student, teacher, **options).items()}
    assert computed == pytest.approx(oracle(student, teacher, **options), rel=1e-9)


@pytest.mark.parametrize("options", GRID, ids=str)
@pytest.mark.parametrize("name", CMKD.terms)
def test_cmkd_gradient_equals_finite_differences_and_is_not_zero(name, options):
    student, teacher = draw(2)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: terms(logits, teacher, **options)[name], student)
    terms(student, teacher, **options)[name].backward()
    assert student.grad is not None
    assert student.grad.abs().max() > 1e-4


def test_soft_ranks_tend_to_the_ranks_also_for_equal_scores():
    scores = torch.tensor([[0.3, 2.0, -1.0, 2.0]])
    torch.testing.assert_close(ranks(scores, softness=1e-3), torch.tensor([[3.0, 1.5, 4.0, 1.5]]))
    torch.testing.assert_close(ranks(scores, softness=0.0), torch.tensor([[3.0, 1.5, 4.0, 1.5]]))


def test_soft_spearman_tends_to_that_of_hard_ranks():
    student, teacher = draw(2)
    expected = [pearson(hard_ranks(s), hard_ranks(t)) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    found = {
        softness: correlation(ranks(student, softness=softness), ranks(teacher, softness=0.0)).tolist()
        for softness in (1e-4, 1.0)
    }
    assert found[1e-4] == pytest.approx(expected, abs=1e-6)
    assert found[1.0] != pytest.approx(expected, abs=1e-2)


def test_equal_logits_give_zero_to_the_pearson_term_and_to_the_spearman_term_of_sharp_ranks():
    (logits,) = draw(1)
    computed = terms(logits, logits, softness=1e-5, difficult="neither")
    assert [term.item() for term in computed.values()] == pytest.approx([0, 0], abs=1e-6)
    assert terms(logits, logits, softness=1.0, difficult="neither")["spearman"] > 1e-3
    soft = ranks(logits, softness=1.0)
    assert correlation(soft, soft).tolist() == pytest.approx([1] * 5)


def test_opposite_logits_give_two_to_both_terms():
    (logits,) = draw(1)
    computed = terms(-logits, logits, softness=1e-5, difficult="neither")
    assert [term.item() for term in computed.values()] == pytest.approx([2, 2], abs=1e-6)


def test_standardizing_changes_all_but_the_correlation_of_logits():
    student, teacher = draw(2)
    changes = {
        space: {name: (plain[name] - term).abs().item() for name, term in terms(student, teacher, space=space).items()}
        for space in OPTIONS["space"]
        for plain in [terms(student, teacher, space=space, standardize=False)]
    }
    assert changes["logits"]["pearson"] < 1e-8
    assert min(changes["probabilities"]["pearson"], changes["logits"]["spearman"]) > 1e-5


def test_ranks_are_those_of_logits_whatever_the_values_are():
    student, teacher = draw(2)
    assert terms(student, teacher, space="probabilities")["spearman"] == terms(student, teacher)["spearman"]


def test_difficulty_runs_from_a_sure_teacher_to_one_that_knows_nothing():
    logits = torch.tensor([[900.0, 0.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    sure, lost, between = difficulty(logits)
    assert sure == 0
    assert lost.item() == pytest.approx(1)
    assert 0 < between < 1


@pytest.mark.parametrize("options", GRID, ids=str)
@pytest.mark.parametrize("scale", [0.0, 200.0])
def test_cmkd_is_finite_at_constant_and_extreme_logits_in_value_and_gradient(scale, options):
    student, teacher = draw(2, classes=100, scale=scale, dtype=torch.float32)
    loss = total(student.requires_grad_(), teacher, **options)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("difficult", OPTIONS["difficult"])
def test_cmkd_sends_no_gradient_to_its_teacher(difficult):
    student, teacher = (logits.requires_grad_() for logits in draw(2))
    total(student, teacher, difficult=difficult).backward()
    assert student.grad is not None
    assert teacher.grad is None


@pytest.mark.parametrize("options", GRID, ids=str)
def test_cmkd_of_half_precision_logits_is_computed_in_float32_under_autocast(options):
    student, teacher = (logits.bfloat16() for logits in draw(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = total(student, teacher, **options)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, total(student.float(), teacher.float(), **options))


@pytest.mark.parametrize("name", CMKD.terms)
def test_a_few_steps_on_either_term_alone_shrink_it(name):
    student, teacher = draw(2)
    student.requires_grad_()
    optimizer = torch.optim.SGD([student], lr=2.0)
    losses = []
    for _ in range(5):
        loss = terms(student, teacher, softness=1.0)[name]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.95 * losses[0]


def test_standardized_logits_of_both_sides_are_what_is_ranked():
    student, teacher = draw(2)
    expected = 1 - correlation(ranks(standardize(student), softness=0.1), ranks(teacher, softness=0.0))
    torch.testing.assert_close(terms(student, teacher, difficult="neither")["spearman"], expected.mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": "logit"}, "cmkd.space=logit: unknown; did you mean 'logits'"),
        ({"difficult": "both"}, "cmkd.difficult=both: unknown; there is: neither, pearson, spearman"),
        ({"softness": 0.0}, "cmkd.softness=0.0: a number between 0"),
        ({"temperature": 0}, "cmkd.temperature=0: a number between 0"),
    ],
)
def test_cmkd_refuses_a_wrong_option(options, message):
    with pytest.raises(ConfigError, match=message):
        CMKD(**options)
