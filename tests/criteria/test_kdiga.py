import math
from functools import partial

import pytest
import torch
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.core.taps import TapReader
from kdbench.core.types import Batch, ModelOutput
from kdbench.criteria import ARD, KDIGA
from kdbench.criteria._functional import kd_loss
from kdbench.criteria.ard import attack_student
from kdbench.criteria.kdiga import NORMS, input_gradient
from kdbench.models.cifar_resnet import CifarResNet


def smooth(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 4)).double()


def batch(samples=5):
    generator = torch.Generator().manual_seed(2)
    inputs = torch.rand(samples, 3, 2, 2, generator=generator, dtype=torch.float64)
    return Batch(inputs, torch.arange(samples) % 4, torch.arange(samples))


def outputs(networks, given):
    return [TapReader(network)(given.inputs) for network in networks]


def term(criterion, student, teacher, given):
    torch.manual_seed(3)
    own, other = outputs((student, teacher), given)
    (value,) = criterion(own, [other], given).values()
    return value


def gradient_by_differences(network, given, size=1e-6):
    """The input gradient of the mean cross-entropy, pixel by pixel."""
    gradient = torch.zeros_like(given.inputs)
    for place in torch.cartesian_prod(*map(torch.arange, given.inputs.shape)).tolist():
        values = []
        for sign in (1, -1):
            moved = given.inputs.clone()
            moved[tuple(place)] += sign * size
            values.append(nn.functional.cross_entropy(network(moved), given.target).item())
        gradient[tuple(place)] = (values[0] - values[1]) / (2 * size)
    return gradient


@pytest.mark.parametrize("norm", NORMS)
def test_kdiga_equals_the_definition(norm):
    student, teacher, given = smooth(0), smooth(1), batch()
    d = (gradient_by_differences(student, given) - gradient_by_differences(teacher, given)).numpy()
    squares = [float((row**2).sum()) for row in d]
    expected = {
        "l2_batch": math.sqrt(sum(squares)),
        "l2_per_sample": sum(map(math.sqrt, squares)) / len(squares),
        "sq": sum(squares),
    }[norm]
    assert term(KDIGA(norm=norm), student, teacher, given).item() == pytest.approx(expected / 5, rel=1e-5)


def test_kdiga_gradient_in_the_weights_equals_finite_differences():
    student, teacher, given = smooth(0), smooth(1), batch()

    def value(weight):
        read = TapReader(student)

        def ask(inputs):
            return ModelOutput(torch.func.functional_call(student, {"1.weight": weight}, (inputs,)), {})

        return KDIGA()(ModelOutput(read(given.inputs).logits, {}, ask), outputs([teacher], given), given)["iga"]

    assert torch.autograd.gradcheck(value, student[1].weight.detach().clone().requires_grad_())


def test_kdiga_reaches_every_weight_of_the_student_and_none_of_a_frozen_teacher():
    student, given = smooth(0), batch()
    teacher = smooth(1).requires_grad_(False)
    term(KDIGA(), student, teacher, given).backward()
    reached = [name for name, p in student.named_parameters() if p.grad is not None and p.grad.any()]
    assert reached == ["1.weight", "1.bias", "3.weight", "3.bias"]
    assert all(p.grad is None for p in teacher.parameters())
    assert given.inputs.grad is None


@pytest.mark.parametrize("norm", NORMS)
def test_kdiga_of_equal_networks_is_zero_with_a_finite_gradient(norm):
    student = smooth(0)
    value = term(KDIGA(norm=norm), student, smooth(0), batch())
    value.backward()
    assert value.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in student.parameters())


@pytest.mark.parametrize("repeats", [2, 4])
def test_repeating_the_batch_divides_kdiga_by_the_three_halves_power(repeats):
    given = batch()
    longer = Batch(given.inputs.repeat(repeats, 1, 1, 1), given.target.repeat(repeats), given.index.repeat(repeats))
    once, often = (term(KDIGA(), smooth(0), smooth(1), each).item() for each in (given, longer))
    assert often / once == pytest.approx(repeats**-1.5)


def test_a_few_steps_on_kdiga_alone_shrink_it():
    student, teacher, given = smooth(0), smooth(1), batch()
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    losses = []
    for _ in range(8):
        loss = term(KDIGA(), student, teacher, given)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_input_gradient_is_that_of_full_precision_under_autocast():
    network, given = smooth(0).float(), batch()
    given = given._replace(inputs=given.inputs.float())
    gradient = partial(input_gradient, TapReader(network), given.inputs, given.target, create_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = gradient()
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, gradient(), rtol=0, atol=0)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs):
        tokens = self.scale * inputs.flatten(2)
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).mean(1)


def test_kdiga_differentiates_through_attention():
    torch.manual_seed(0)
    student, given = Attention(), batch()
    given = given._replace(inputs=given.inputs.float())
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    term(KDIGA(), student, teacher, given).backward()
    assert student.scale.grad is not None
    assert student.scale.grad.any()


@pytest.mark.parametrize("where", ["noise", "adversarial"])
def test_kdiga_compares_gradients_at_other_points_of_the_box(where):
    student, teacher, given = smooth(0), smooth(1), batch()
    assert term(KDIGA(at=where), student, teacher, given) != term(KDIGA(), student, teacher, given)


def test_attack_stays_in_the_box_and_raises_the_students_loss():
    torch.manual_seed(0)
    network, given = CifarResNet(8, num_classes=4).eval(), batch(8)
    given = given._replace(inputs=torch.rand(8, 3, 8, 8).round(decimals=1), target=torch.arange(8) % 4)
    student = TapReader(network)(given.inputs)
    attacked = attack_student(student, given, epsilon=8.0, steps=10)
    assert (attacked - given.inputs).abs().max() <= 8 / 255 + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    clean, after = (nn.functional.cross_entropy(network(x), given.target) for x in (given.inputs, attacked))
    assert after > clean + 0.01
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("sees", ["adversarial", "clean"])
def test_ard_is_kd_on_the_students_attacked_inputs(sees):
    student, teacher, given = smooth(0), smooth(1), batch()
    torch.manual_seed(3)
    attacked = attack_student(TapReader(student)(given.inputs), given, epsilon=8.0, steps=3)
    guide = teacher(attacked if sees == "adversarial" else given.inputs)
    expected = 0.5 * kd_loss(student(attacked), guide, temperature=2.0) / 2  # C = 4: the element mean is a quarter
    found = term(ARD(temperature=2.0, steps=3, teacher_sees=sees), student, teacher, given)
    torch.testing.assert_close(found, expected)


def test_ard_asks_the_teacher_without_a_graph():
    teacher = smooth(1)
    term(ARD(steps=1), smooth(0), teacher, batch()).backward()
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize(
    ("criterion", "options", "message"),
    [
        (KDIGA, {"norm": "l2"}, "kdiga.norm=l2: unknown"),
        (KDIGA, {"at": "adv"}, "kdiga.at=adv: unknown"),
        (KDIGA, {"steps": 0}, "kdiga.steps=0: a whole number of at least 1"),
        (KDIGA, {"epsilon": 0}, "kdiga.epsilon=0: a number between 0 and 256"),
        (ARD, {"steps": 1.5}, "ard.steps=1.5: a whole number"),
        (ARD, {"temperature": -1}, "ard.temperature=-1: a number"),
        (ARD, {"reduction": "sum"}, "ard.reduction=sum: unknown"),
        (ARD, {"teacher_sees": "noise"}, "ard.teacher_sees=noise: unknown"),
    ],
)
def test_a_wrong_option_is_refused(criterion, options, message):
    with pytest.raises(ConfigError, match=message):
        criterion(**options)
