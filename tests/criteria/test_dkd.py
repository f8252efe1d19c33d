import math

import numpy as np
import pytest
import torch
import yaml

from kdbench.core.errors import ConfigError
from kdbench.core.schedules import make_schedule
from kdbench.core.types import Batch, ModelOutput, Progress
from kdbench.criteria._functional import kd_loss
from kdbench.criteria.dkd import DKD, decouple
from tests.conftest import REPO

TARGET = torch.tensor([0, 3, 2, 1, 3])


def draw(count, classes=4, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    return [scale * torch.randn(5, classes, generator=generator, dtype=dtype) for _ in range(count)]


def terms(student, teacher, target=TARGET, **options):
    batch = Batch(torch.zeros(5, 1), target, torch.arange(5))
    return DKD(**options)(ModelOutput(student, {}), [ModelOutput(teacher, {})], batch)


def oracle(student, teacher, target, temperature):
    """The published form in probabilities, by loops over samples and classes."""

    def softmax(row):
        exponentials = [math.exp(value / temperature) for value in row]
        return [value / sum(exponentials) for value in exponentials]

    tckd = nckd = 0.0
    for s, t, y in zip(np.asarray(student), np.asarray(teacher), target.tolist(), strict=True):
        q, p = softmax(s), softmax(t)
        tckd += p[y] * math.log(p[y] / q[y]) + (1 - p[y]) * math.log((1 - p[y]) / (1 - q[y]))
        for c in range(len(s)):
            if c != y:
                pc, qc = p[c] / (1 - p[y]), q[c] / (1 - q[y])
                nckd += pc * math.log(pc / qc)
    return {"tckd": temperature**2 * tckd / len(student), "nckd": temperature**2 * nckd / len(student)}


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dkd_equals_the_form_in_probabilities(temperature):
    student, teacher = draw(2)
    computed = terms(student, teacher, temperature=temperature)
    expected = oracle(student, teacher, TARGET, temperature)
    assert {name: term.item() for name, term in computed.items()} == pytest.approx(expected, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("name", DKD.terms)
def test_dkd_gradient_equals_finite_differences(name):
    student, teacher = draw(2)
    assert torch.autograd.gradcheck(lambda logits: terms(logits, teacher)[name], student.requires_grad_())


def test_plain_kd_is_tckd_and_nckd_muted_where_the_teacher_is_sure():
    student, teacher = draw(2)
    kd = 0.0
    for i in range(5):
        row = Batch(torch.zeros(1, 1), TARGET[i : i + 1], torch.arange(1))
        parts = DKD()(ModelOutput(student[i : i + 1], {}), [ModelOutput(teacher[i : i + 1], {})], row)
        kd += parts["tckd"] + (1 - (teacher[i] / 4).softmax(0)[TARGET[i]]) * parts["nckd"]
    torch.testing.assert_close(kd / 5, kd_loss(student, teacher, temperature=4.0))


def test_nckd_does_not_look_at_the_target_s_logit_and_tckd_only_at_its_probability():
    student, teacher = draw(2)
    raised = student.scatter_add(1, TARGET.unsqueeze(1), torch.full((5, 1), 3.0).double())
    before, after = terms(student, teacher), terms(raised, teacher)
    torch.testing.assert_close(after["nckd"], before["nckd"])
    assert (after["tckd"] - before["tckd"]).abs() > 1e-3


@pytest.mark.parametrize("scale", [200.0, 2000.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("name", DKD.terms)
def test_dkd_is_finite_at_extreme_logits_in_value_and_gradient(name, temperature, scale):
    student, teacher = draw(2, classes=100, scale=scale, dtype=torch.float32)
    term = terms(student.requires_grad_(), teacher, temperature=temperature)[name]
    term.backward()
    assert term.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_a_student_that_is_sure_still_learns_the_probability_of_the_rest():
    sure = torch.tensor([[300.0, 0.0, 0.0]], requires_grad=True)
    is_target, _ = decouple(sure, torch.tensor([0]), temperature=1.0)
    is_target[0, 1].backward()
    assert is_target[0, 1].item() == pytest.approx(math.log(2) - 300)
    torch.testing.assert_close(sure.grad, torch.tensor([[-1.0, 0.5, 0.5]]))


def test_dkd_is_zero_for_a_student_that_agrees():
    (logits,) = draw(1)
    assert [term.item() for term in terms(logits + 3.0, logits).values()] == pytest.approx([0, 0], abs=1e-12)


def test_dkd_sends_no_gradient_to_its_teacher():
    student, teacher = (logits.requires_grad_() for logits in draw(2))
    torch.stack(list(terms(student, teacher).values())).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_dkd_of_half_precision_logits_is_computed_in_float32_under_autocast():
    student, teacher = (logits.bfloat16() for logits in draw(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        computed = terms(student, teacher)
    assert {term.dtype for term in computed.values()} == {torch.float32}
    torch.testing.assert_close(computed, terms(student.float(), teacher.float()))


@pytest.mark.parametrize("name", DKD.terms)
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


@pytest.mark.parametrize(("epoch", "tckd", "nckd"), [(0, 0.0, 0.0), (1, 0.05, 0.4), (20, 1.0, 8.0), (240, 1.0, 8.0)])
def test_published_weights_grow_over_twenty_epochs_from_zero(epoch, tckd, nckd):
    weights = yaml.safe_load((REPO / "configs/method/dkd.yaml").read_text())["weights"]
    progress = Progress(step=10 * epoch, total_steps=2400, steps_per_epoch=10)
    assert make_schedule("tckd", weights["tckd"])(progress) == pytest.approx(tckd)
    assert make_schedule("nckd", weights["nckd"])(progress) == pytest.approx(nckd)


@pytest.mark.parametrize("temperature", [0, -1.0, "4", None, True])
def test_dkd_refuses_a_wrong_temperature(temperature):
    with pytest.raises(ConfigError, match=f"dkd.temperature={temperature}: a number"):
        DKD(temperature=temperature)
