import itertools
import math

import numpy as np
import pytest
import torch

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria import KD
from kdbench.criteria._functional import ensemble_logits, kd_loss, log_probabilities, soft_cross_entropy

OPTIONS = {
    "temperature": (1.0, 4.0),
    "reduction": ("batchmean", "elementwise_mean"),
    "temperature_on": ("both", "teacher"),
    "scale": (True, False),
    "divergence": ("kl", "reverse_kl", "soft_ce"),
    "several": ("average", "sum"),
}
GRID = [dict(zip(OPTIONS, values, strict=True)) for values in itertools.product(*OPTIONS.values())]
TEACHER, STUDENT = torch.tensor([[3.0, 0.0, -1.0]]), torch.tensor([[2.0, 1.0, 0.0]])
BATCH = Batch(torch.zeros(5, 1), torch.tensor([0, 1, 2, 3, 0]), torch.arange(5))


def draw(count, classes=4, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    return [scale * torch.randn(5, classes, generator=generator, dtype=dtype) for _ in range(count)]


def outputs(logits):
    return [ModelOutput(each, {}) for each in logits]


def term(criterion, student, teachers, batch=BATCH):
    return criterion(ModelOutput(student, {}), outputs(teachers), batch)["kd"]


def softmax(row, temperature):
    exponentials = [math.exp(value / temperature) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def oracle(student, teachers, *, temperature, reduction, temperature_on, scale, divergence, several):
    """The definition again, naively: loops over samples, teachers and classes."""
    student, teachers = np.asarray(student), [np.asarray(each) for each in teachers]
    total = 0.0
    for i, row in enumerate(student):
        q = softmax(row, temperature if temperature_on == "both" else 1.0)
        guides = [softmax(teacher[i], temperature) for teacher in teachers]
        if several == "average":
            guides = [[sum(values) / len(values) for values in zip(*guides, strict=True)]]
        for p in guides:
            for pc, qc in zip(p, q, strict=True):
                if divergence == "kl":
                    total += pc * math.log(pc / qc)
                elif divergence == "reverse_kl":
                    total += qc * math.log(qc / pc)
                else:
                    total -= pc * math.log(qc)
    total /= student.size if reduction == "elementwise_mean" else len(student)
    return total * temperature**2 if scale else total


@pytest.mark.parametrize("options", GRID, ids=str)
def test_kd_equals_the_definition_with_three_teachers(options):
    student, *teachers = draw(4)
    assert term(KD(**options), student, teachers).item() == pytest.approx(
        oracle(student, teachers, **options), rel=1e-9
    )


@pytest.mark.parametrize("options", GRID, ids=str)
def test_kd_gradient_equals_finite_differences(options):
    student, *teachers = draw(3)
    assert torch.autograd.gradcheck(lambda logits: term(KD(**options), logits, teachers), student.requires_grad_())


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"temperature": 1.0, "scale": False}, 0.214201),
        ({"temperature": 4.0, "scale": False}, 0.0311416),
        ({"temperature": 1.0}, 0.214201),
        ({"temperature": 4.0}, 0.498266),
        ({"temperature": 1.0, "scale": False, "reduction": "elementwise_mean"}, 0.0714004),
        ({"temperature": 4.0, "scale": False, "reduction": "elementwise_mean"}, 0.0103805),
        ({"temperature": 1.0, "scale": False, "divergence": "reverse_kl"}, 0.327796),
        ({"temperature": 4.0, "scale": False, "divergence": "reverse_kl"}, 0.0309467),
        ({"temperature": 4.0, "scale": False, "divergence": "soft_ce", "temperature_on": "teacher"}, 1.064108),
    ],
)
def test_kd_of_the_three_class_example_has_the_known_value(options, value):
    assert term(KD(**options), STUDENT, [TEACHER]).item() == pytest.approx(value, rel=5e-6)


def test_elementwise_mean_times_classes_is_batchmean():
    student, teacher = draw(2, classes=100)
    mean = term(KD(reduction="elementwise_mean"), student, [teacher])
    torch.testing.assert_close(mean * 100, term(KD(), student, [teacher]))


def test_soft_cross_entropy_minus_kl_is_the_teacher_entropy():
    student, teacher = draw(2)
    log_p = log_probabilities(teacher, 4.0)
    soft, kl = (kd_loss(student, teacher, temperature=4.0, scale=False, divergence=name) for name in ("soft_ce", "kl"))
    torch.testing.assert_close(soft - kl, soft_cross_entropy(log_p, log_p).mean())


def test_kd_is_zero_for_a_student_that_agrees():
    (logits,) = draw(1)
    assert term(KD(), logits + 3.0, [logits]).item() == pytest.approx(0.0, abs=1e-12)


def test_ensemble_of_one_is_the_teacher_itself():
    (logits,) = draw(1)
    pooled = ensemble_logits([logits], temperature=4.0)
    torch.testing.assert_close(log_probabilities(pooled, 4.0), log_probabilities(logits, 4.0))
    torch.testing.assert_close(log_probabilities(pooled), log_probabilities(logits))


@pytest.mark.parametrize("several", OPTIONS["several"])
def test_kd_sends_no_gradient_to_its_teachers(several):
    student, *teachers = (logits.requires_grad_() for logits in draw(3))
    term(KD(several=several), student, teachers).backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert all(teacher.grad is None for teacher in teachers)


@pytest.mark.parametrize("options", GRID, ids=str)
def test_kd_is_finite_at_extreme_logits_in_value_and_gradient(options):
    student, *teachers = draw(3, classes=100, scale=200.0, dtype=torch.float32)
    loss = term(KD(**options), student.requires_grad_(), teachers)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_kd_of_half_precision_logits_is_computed_in_float32_under_autocast():
    student, teacher = draw(2, dtype=torch.float32)
    half = student.bfloat16(), teacher.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = term(KD(), half[0], [half[1]])
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, term(KD(), half[0].float(), [half[1].float()]))


def test_kd_gradient_does_not_depend_on_the_labels():
    student, teacher = draw(2)
    gradients = []
    for target in (BATCH.target, (BATCH.target + 1) % 4):
        logits = student.clone().requires_grad_()
        term(KD(), logits, [teacher], BATCH._replace(target=target)).backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def test_gradient_size_hardly_depends_on_a_high_temperature():
    student, teacher = draw(2)
    norms = []
    for temperature in (20.0, 40.0):
        logits = student.clone().requires_grad_()
        term(KD(temperature=temperature), logits, [teacher]).backward()
        assert logits.grad is not None
        norms.append(logits.grad.norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.1)


@pytest.mark.parametrize("options", GRID, ids=str)
def test_a_few_steps_on_kd_alone_shrink_it(options):
    student, *teachers = draw(3)
    logits = student.clone().requires_grad_()
    optimizer = torch.optim.SGD([logits], lr=0.1)
    losses = []
    for _ in range(5):
        loss = term(KD(**options), logits, teachers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "kd.temperature=0: a number between 0 and inf"),
        ({"temperature": "4"}, "kd.temperature=4: a number"),
        ({"reduction": "batch_mean"}, "kd.reduction=batch_mean: unknown; did you mean 'batchmean'"),
        ({"temperature_on": "student"}, "kd.temperature_on=student: unknown"),
        ({"divergence": "jeffreys"}, "kd.divergence=jeffreys: unknown; there is: kl, reverse_kl, soft_ce"),
        ({"several": None}, "kd.several=None: unknown; there is: average, sum"),
    ],
)
def test_kd_refuses_a_wrong_option_and_names_the_choices(options, message):
    with pytest.raises(ConfigError, match=message):
        KD(**options)
