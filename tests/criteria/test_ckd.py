import math

import numpy as np
import pytest
import torch

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria.cc import CC
from kdbench.criteria.ckd import CKD, GroupedCC, GroupedFitNet, GroupedVID
from kdbench.criteria.fitnet import FitNet
from kdbench.criteria.vid import VID

TARGET = torch.tensor([0, 3, 2, 1, 3, 0, 0, 2])
GROUPS = [pytest.param(p, q, id=f"{p} and {q}") for p, q in ((1, 1), (2, 1), (2, 2))]
VARIANTS = ("mse", "kl")


def draw(count, classes=4, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    return [scale * torch.randn(8, classes, generator=generator, dtype=dtype) for _ in range(count)]


def terms(student, teacher, **options):
    torch.manual_seed(0)
    size = len(student)
    batch = Batch(torch.zeros(size, 1), TARGET[:size], torch.arange(size))
    return CKD(**options)(ModelOutput(student, {}), [ModelOutput(teacher, {})], batch)


def total(*arguments, **options):
    return torch.stack(list(terms(*arguments, **options).values())).sum()


def share():
    """What the seed of `terms` draws."""
    torch.manual_seed(0)
    return torch.rand((), dtype=torch.float64).item()


def oracle(student, teacher, p, q, variant, combine):
    """The definition again, by loops over tuples, their samples and classes."""
    classes = student.shape[1]
    labels = [[float(c == y) for c in range(classes)] for y in TARGET.tolist()]
    first, second = {"diff": (1, -1), "mean": (0.5, 0.5), "mixup": (share(), 1 - share())}[combine]

    def differences(values):
        found = []
        for start in range(0, len(values) - p - q + 1, p + q):
            left, right = values[start : start + p], values[start + p : start + p + q]
            found.append(
                [first * sum(v[c] for v in left) / p + second * sum(v[c] for v in right) / q for c in range(classes)]
            )
        return found

    def distance(own, target):
        if variant == "mse":
            squares = [(a - b) ** 2 for s, t in zip(own, target, strict=True) for a, b in zip(s, t, strict=True)]
            return sum(squares) / len(squares)
        loss = 0.0
        for s, t in zip(own, target, strict=True):
            es, et = ([math.exp(value / 4) for value in row] for row in (s, t))
            loss += sum(b / sum(et) * math.log(b / sum(et) * sum(es) / a) for a, b in zip(es, et, strict=True))
        return 16 * loss / len(own)

    own, guide, label = (differences(values) for values in (np.asarray(student), np.asarray(teacher), labels))
    return {"comparison": distance(own, guide), "label_comparison": distance(own, label)}


@pytest.mark.parametrize("combine", ["diff", "mean", "mixup"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("p", "q"), GROUPS)
def test_ckd_equals_the_definition(p, q, variant, combine):
    student, teacher = draw(2)
    computed = terms(student, teacher, variant=variant, first_group=p, second_group=q, combine=combine)
    expected = oracle(student, teacher, p, q, variant, combine)
    assert {name: term.item() for name, term in computed.items()} == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", CKD.terms)
def test_ckd_gradient_equals_finite_differences(name, variant):
    student, teacher = draw(2)
    assert torch.autograd.gradcheck(
        lambda logits: terms(logits, teacher, variant=variant)[name], student.requires_grad_()
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_comparison_is_zero_for_a_student_that_agrees_and_the_labels_are_another_matter(variant):
    (logits,) = draw(1)
    computed = terms(logits, logits, variant=variant)
    assert computed["comparison"].item() == pytest.approx(0.0, abs=1e-12)
    assert computed["label_comparison"] > 0.1


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("combine", ["diff", "mean", "mixup"])
def test_only_differences_leave_a_constant_per_class_undetermined(variant, combine):
    student, teacher = draw(2)
    shift = torch.tensor([3.0, -1.0, 0.0, 2.0], dtype=torch.float64)
    change = total(student + shift, teacher, variant=variant, combine=combine) - total(
        student, teacher, variant=variant, combine=combine
    )
    assert (abs(change.item()) < 1e-9) == (combine == "diff")


def test_groups_are_consecutive_samples_and_a_rest_that_fills_no_tuple_is_left_out():
    logits = draw(2)

    def comparison(order):
        return terms(*(each[order] for each in logits), first_group=2, second_group=1)["comparison"]

    whole = comparison([0, 1, 2, 3, 4, 5, 6, 7])
    torch.testing.assert_close(comparison([0, 1, 2, 3, 4, 5]), whole)
    torch.testing.assert_close(comparison([1, 0, 2, 3, 4, 5, 6, 7]), whole)
    assert (comparison([2, 1, 0, 3, 4, 5, 6, 7]) - whole).abs() > 1e-2


def test_means_are_taken_of_logits_before_the_softmax():
    teacher = torch.tensor([[9.0, 0, 0, 0], [0, 9.0, 0, 0], [0, 0, 0, 0]]).double()
    mean = torch.tensor([[4.5, 4.5, 0, 0], [4.5, 4.5, 0, 0], [0, 0, 0, 0]]).double()
    options = {"variant": "kl", "first_group": 2, "second_group": 1}
    assert terms(mean, teacher, **options)["comparison"].item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_ckd_is_finite_at_extreme_logits_in_value_and_gradient(variant):
    student, teacher = draw(2, classes=100, scale=200.0, dtype=torch.float32)
    loss = total(student.requires_grad_(), teacher, variant=variant)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_ckd_sends_no_gradient_to_its_teacher(variant):
    student, teacher = (logits.requires_grad_() for logits in draw(2))
    total(student, teacher, variant=variant).backward()
    assert student.grad is not None
    assert teacher.grad is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_ckd_of_half_precision_logits_is_computed_in_float32_under_autocast(variant):
    student, teacher = (logits.bfloat16() for logits in draw(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = total(student, teacher, variant=variant)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, total(student.float(), teacher.float(), variant=variant))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", CKD.terms)
def test_a_few_steps_on_either_term_alone_shrink_it(name, variant):
    student, teacher = draw(2)
    student.requires_grad_()
    optimizer = torch.optim.SGD([student], lr=0.5)
    losses = []
    for _ in range(5):
        loss = terms(student, teacher, variant=variant)[name]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_too_small_for_a_tuple_gives_zero_and_can_be_trained_on(variant):
    student, teacher = (logits[:3] for logits in draw(2))
    loss = total(student.requires_grad_(), teacher, first_group=3, variant=variant)
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "msr"}, "ckd.variant=msr: unknown; did you mean 'mse'"),
        ({"combine": "sum"}, "ckd.combine=sum: unknown; there is: diff, mean, mixup"),
        ({"first_group": 0}, "ckd.first_group=0: a number"),
        ({"second_group": None}, "ckd.second_group=None: a number"),
        ({"temperature": 0}, "ckd.temperature=0: a number"),
    ],
)
def test_ckd_refuses_a_wrong_option(options, message):
    with pytest.raises(ConfigError, match=message):
        CKD(**options)


PLAIN = {GroupedFitNet: FitNet, GroupedVID: VID, GroupedCC: CC}
SHAPES = {GroupedFitNet: (6, 4, 4), GroupedVID: (6, 4, 4), GroupedCC: (6,)}


def set_up(made):
    torch.manual_seed(0)
    spec = NetworkSpec("toy", 4, {"tap": (6,) if isinstance(made, CC) else (6, 4, 4)})
    made.setup(spec, [spec], DataSpec("toy", 4, (1, 8, 8), (0.5,), (0.5,)))
    return made


def seen(size, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, *shape, generator=generator)


@pytest.mark.parametrize(("p", "q"), GROUPS)
@pytest.mark.parametrize("grouped", PLAIN, ids=lambda made: made.__name__)
def test_the_white_box_forms_are_their_criteria_of_differences_between_groups(grouped, p, q):
    own, other = seen(8, SHAPES[grouped], 1), seen(8, SHAPES[grouped], 2)

    def differences(values):
        rows = range(0, 8 - p - q + 1, p + q)
        return torch.stack([sum(values[i : i + p]) / p - sum(values[i + p : i + p + q]) / q for i in rows])

    def output(features):
        return ModelOutput(torch.zeros(len(features), 4), {"tap": features})

    batch = Batch(torch.zeros(8, 1), TARGET, torch.arange(8))
    computed = set_up(grouped(first_group=p, second_group=q))(output(own), [output(other)], batch)
    expected = set_up(PLAIN[grouped]())(output(differences(own)), [output(differences(other))], batch)
    torch.testing.assert_close(computed, expected)


@pytest.mark.parametrize("grouped", PLAIN, ids=lambda made: made.__name__)
def test_less_than_two_tuples_give_a_white_box_form_nothing_to_learn(grouped):
    features = seen(3, SHAPES[grouped], 1)
    output = ModelOutput(torch.randn(3, 4, requires_grad=True), {"tap": features})
    ((_, loss),) = set_up(grouped())(output, [output], Batch(torch.zeros(3, 1), TARGET[:3], torch.arange(3))).items()
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("grouped", PLAIN, ids=lambda made: made.__name__)
def test_white_box_forms_refuse_empty_groups(grouped):
    with pytest.raises(ConfigError, match=r"ckd\.second_group=0: a number"):
        grouped(second_group=0)
