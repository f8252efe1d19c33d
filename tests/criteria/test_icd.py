import math

import numpy as np
import pytest
import torch

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria.icd import ICD, contrast, invariance

DATA = DataSpec("fake", 3, (3, 4, 4), (0.5,) * 3, (0.25,) * 3)


def draw(shape, seed=7, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def spec(**shapes):
    return NetworkSpec("net", 3, shapes)


def build(student=6, teacher=9, **options):
    torch.manual_seed(0)
    criterion = ICD(**{"dim": 5, **options})
    criterion.setup(spec(pooled=(student,)), [spec(pooled=(teacher,))], DATA)
    return criterion.double()


def terms(criterion, student, teacher):
    size = len(student)
    batch = Batch(torch.zeros(size, 1), torch.zeros(size, dtype=torch.int64), torch.arange(size))
    outputs = (ModelOutput(torch.zeros(size, 3), {"pooled": features}) for features in (student, teacher))
    return criterion(next(outputs), [next(outputs)], batch)


def total(criterion, student, teacher):
    return torch.stack(list(terms(criterion, student, teacher).values())).sum()


def oracle(student, teacher, criterion):
    """The definition again, by loops over samples and dimensions."""

    def embed(rows, layer):
        weight, bias = (np.asarray(part.detach()) for part in (layer.weight, layer.bias))
        found = []
        for row in np.asarray(rows):
            values = [sum(line * row) + b for line, b in zip(weight, bias, strict=True)]
            found.append([value / math.sqrt(sum(v * v for v in values)) for value in values])
        return found

    def softmax(row):
        exponentials = [math.exp(value) for value in row]
        return [value / sum(exponentials) for value in exponentials]

    u, v = embed(student, criterion.embed_student), embed(teacher, criterion.embed_teacher)
    scale = min(math.exp(criterion.log_scale.item()), criterion.max_scale)
    s = [[scale * sum(x * y for x, y in zip(a, b, strict=True)) for b in v] for a in u]
    own, other = 0.0, 0.0
    for i in range(len(s)):
        p, q = softmax(s[i]), softmax([row[i] for row in s])
        own -= math.log(p[i])
        other += sum(qj * math.log(qj / pj) for pj, qj in zip(p, q, strict=True))
    return {"contrast": own / len(s), "invariance": other / len(s)}


@pytest.mark.parametrize("log_scale", [1.0, 5.0])
def test_icd_equals_the_definition_below_and_above_the_largest_scale(log_scale):
    criterion = build()
    criterion.log_scale.data.fill_(log_scale)
    student, teacher = draw((5, 6)), draw((5, 9), seed=8)
    computed = {name: term.item() for name, term in terms(criterion, student, teacher).items()}
    assert computed == pytest.approx(oracle(student, teacher, criterion), rel=1e-9)


@pytest.mark.parametrize("name", ICD.terms)
def test_icd_gradient_equals_finite_differences_in_features_and_all_trainable_parts(name):
    criterion, teacher = build(), draw((4, 9), seed=8)
    names, parameters = zip(*criterion.named_parameters(), strict=True)
    own = [parameter.detach().clone().requires_grad_() for parameter in parameters]

    def term(student, *values):
        batch = Batch(torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64), torch.arange(4))
        sides = ModelOutput(student, {"pooled": student}), [ModelOutput(student, {"pooled": teacher})]
        return torch.func.functional_call(criterion, dict(zip(names, values, strict=True)), (*sides, batch))[name]

    assert len(own) == 5
    assert torch.autograd.gradcheck(term, (draw((4, 6)).requires_grad_(), *own))


def test_invariance_is_zero_for_a_symmetric_similarity_and_for_no_other():
    similarity = draw((5, 5))
    assert invariance(similarity + similarity.T).item() == pytest.approx(0.0, abs=1e-12)
    assert invariance(similarity) > 1e-2


def test_contrast_takes_the_students_as_anchors():
    similarity = torch.tensor([[2.0, 0.0], [2.0, 2.0]])  # each teacher finds its student no worse than student 0 does
    expected = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    assert contrast(similarity).item() == pytest.approx(expected)
    assert contrast(torch.tensor([[2.0, -5.0], [2.0, 2.0]])) < expected


@pytest.mark.parametrize("value", [contrast, invariance])
def test_a_constant_added_to_all_similarities_changes_nothing(value):
    similarity = draw((5, 5))
    torch.testing.assert_close(value(similarity + 3.0), value(similarity))


def test_gradient_flows_through_the_target_unless_it_is_detached():
    gradients = []
    for detach in (False, True):
        similarity = draw((5, 5)).requires_grad_()
        invariance(similarity, detach_target=detach).backward()
        gradients.append(similarity.grad)
    of_p = draw((5, 5)).softmax(dim=1) - draw((5, 5)).T.softmax(dim=1)
    torch.testing.assert_close(gradients[1], of_p / 5)
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3


def test_detaching_the_target_changes_the_gradient_and_not_the_value():
    values, gradients = [], []
    for detach in (False, True):
        criterion = build(detach_target=detach)
        value = terms(criterion, draw((5, 6)), draw((5, 9), seed=8))["invariance"]
        value.backward()
        values.append(value)
        gradients.append(criterion.embed_student.weight.grad)
    torch.testing.assert_close(values[0], values[1])
    assert (gradients[0] - gradients[1]).abs().max() > 1e-4


def test_gradient_reaches_both_embeddings_and_the_scale_but_no_teacher():
    criterion = build()
    student, teacher = draw((5, 6)).requires_grad_(), draw((5, 9), seed=8).requires_grad_()
    total(criterion, student, teacher).backward()
    gradients = {name: parameter.grad for name, parameter in criterion.named_parameters()}
    assert gradients.keys() == {"log_scale", "embed_student.weight", "embed_student.bias",
                                "embed_teacher.weight", "embed_teacher.bias"}  # fmt: skip
    assert all(gradient is not None and gradient.any() for gradient in gradients.values())
    assert student.grad is not None
    assert teacher.grad is None


def test_trainable_parts_are_in_the_state():
    criterion = build()
    assert set(criterion.state_dict()) == {name for name, _ in criterion.named_parameters()}


@pytest.mark.parametrize("size", [1, 2])
def test_icd_is_finite_at_the_largest_scale_in_tiny_batches_of_huge_features(size):
    criterion = build().float()
    criterion.log_scale.data.fill_(80.0)
    student = (1e4 * draw((size, 6), dtype=torch.float32)).requires_grad_()
    loss = total(criterion, student, 1e4 * draw((size, 9), seed=8, dtype=torch.float32))
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert criterion.log_scale.grad is not None
    assert criterion.log_scale.grad.isfinite()


def test_scale_of_the_softmax_starts_at_e_and_a_trained_one_never_exceeds_the_largest():
    criterion = build()
    assert criterion.log_scale.exp().item() == pytest.approx(math.e)
    student, teacher = draw((5, 6)), draw((5, 9), seed=8)
    values = []
    for log_scale in (math.log(10.0), 3.0):
        criterion.log_scale.data.fill_(log_scale)
        values.append(total(criterion, student, teacher))
    torch.testing.assert_close(values[0], values[1])


def test_icd_of_half_precision_features_is_computed_in_float32_under_autocast():
    criterion = build().float()
    student, teacher = draw((5, 6)).bfloat16(), draw((5, 9), seed=8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        computed = terms(criterion, student, teacher)
    torch.testing.assert_close(computed, terms(criterion, student.float(), teacher.float()), rtol=0, atol=0)


@pytest.mark.parametrize("name", ICD.terms)
def test_a_few_steps_on_either_term_alone_shrink_it(name):
    criterion, student, teacher = build(), draw((5, 6)).requires_grad_(), draw((5, 9), seed=8)
    optimizer = torch.optim.SGD([student, *criterion.parameters()], lr=0.3)
    losses = []
    for _ in range(5):
        loss = terms(criterion, student, teacher)[name]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (spec(), "net gives 0 taps; name exactly one, such as pooled"),
        (spec(pooled=(6,), logits=(3,)), "net gives 2 taps"),
        (spec(stage1=(6, 4, 4)), r"tap 'stage1' of net has shape \(6, 4, 4\); a vector is needed"),
    ],
)
def test_icd_refuses_other_taps_than_one_vector(student, message):
    with pytest.raises(ConfigError, match=message):
        ICD().setup(student, [spec(pooled=(9,))], DATA)
    with pytest.raises(ConfigError, match=message):
        ICD().setup(spec(pooled=(9,)), [student], DATA)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "icd.dim=0: a number between 0"),
        ({"max_scale": 0}, "icd.max_scale=0: a number between 0"),
        ({"log_scale": 2.4}, "icd.log_scale=2.4: a number between -inf and 2.30259"),
    ],
)
def test_icd_refuses_a_wrong_option(options, message):
    with pytest.raises(ConfigError, match=message):
        ICD(**options)
