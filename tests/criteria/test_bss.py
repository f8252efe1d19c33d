import math

import numpy as np
import pytest
import torch
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.core.taps import TapReader
from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria.bss import BSS, choose_base, cross_boundary

DATA = DataSpec("toy", 3, (3, 4, 4), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def network(seed, scale=6.0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).double()
    nn.init.normal_(net[1].weight, std=scale / 48)
    return net


def case(samples=8):
    inputs = torch.rand(samples, 3, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    teacher = network(1)
    return teacher, Batch(inputs, teacher(inputs).argmax(1), torch.arange(samples))


def make(**options):
    criterion = BSS(**options)
    spec = NetworkSpec("toy", 3)
    criterion.setup(spec, [spec], DATA)
    return criterion.double()


def terms(student, teacher, batch, **options):
    own, other = TapReader(student)(batch.inputs), TapReader(teacher)(batch.inputs)
    torch.manual_seed(4)
    return make(**options)(own, [other], batch)


def soft_cross_entropy(own, guide, temperature=3.0):
    def softmax(row):
        total = sum(math.exp(value / temperature) for value in row)
        return [math.exp(value / temperature) / total for value in row]

    rows = zip(own.tolist(), guide.tolist(), strict=True)
    sums = [-sum(p * math.log(q) for p, q in zip(softmax(t), softmax(s), strict=True)) for s, t in rows]
    return sum(sums) / len(sums)


def oracle_move(teacher, pixels, base, goal, steps, step):
    """The attack on one linear network, whose gradient is a difference of its weights."""
    mean, std = (np.asarray(x).reshape(3, 1, 1) for x in (DATA.mean, DATA.std))
    weight, bias = (np.asarray(p.detach()) for p in (teacher[1].weight, teacher[1].bias))
    x = (np.asarray(pixels) - mean) / std
    for _ in range(steps):
        z = weight @ (x * std + mean).ravel() + bias
        if z.argmax() != base:
            break
        gradient = (weight[goal] - weight[base]).reshape(3, 4, 4) * std
        x = np.clip(x + step * (z[base] - z[goal] + 1e-4) * gradient / np.linalg.norm(gradient), -2.5, 2.5)
    return x * std + mean


def test_bss_equals_the_definition():
    teacher, batch = case()
    student = teacher  # both are right everywhere
    found = terms(student, teacher, batch, step=1.0)
    logits = teacher(batch.inputs).detach()
    order = choose_base(logits, logits, batch.target, limit=64)
    torch.manual_seed(4)
    others = logits[order].softmax(1).scatter(1, batch.target[order, None], 0.0)
    goal = torch.multinomial(others / others.sum(1, keepdim=True), 1).squeeze(1)
    moved = np.stack([oracle_move(teacher, batch.inputs[i], int(batch.target[i]), int(k), 10, 1.0)
                      for i, k in zip(order, goal, strict=True)])  # fmt: skip
    answer = teacher(torch.from_numpy(moved)).detach()
    assert found["bss_clean"].item() == pytest.approx(soft_cross_entropy(logits, logits), rel=1e-6)
    assert found["bss_boundary"].item() == pytest.approx(soft_cross_entropy(answer, answer), rel=1e-5)


def test_moved_samples_stop_just_behind_the_boundary():
    teacher, batch = case()
    goal = (batch.target + 1) % 3
    moved = cross_boundary(teacher, batch.inputs, base=batch.target, goal=goal, steps=60, step=0.5)
    before, after = teacher(batch.inputs), teacher(moved)
    crossed = after.argmax(1) != batch.target
    assert crossed.float().mean() > 0.8

    def gap(logits):
        first, second = logits.topk(2).values.T
        return first - second

    assert gap(after)[crossed].mean() < 0.1 * gap(before)[crossed].mean()


def test_base_samples_are_right_in_both_and_differ_most_besides():
    target = torch.tensor([0, 0, 1, 2, 1])
    teacher = torch.tensor([[4.0, 1, 0], [4, 3, 0], [0, 5, 2], [0, 0, 3], [3, 1, 0]])
    student = torch.tensor([[4.0, 1, 0], [4, 0, 3], [1, 5, 0], [9, 0, 3], [0, 1, 0]])
    assert choose_base(student, teacher, target, limit=64).tolist() == [1, 2, 0]
    assert choose_base(student, teacher, target, limit=2).tolist() == [1, 2]


def test_without_samples_to_move_the_boundary_term_is_zero():
    teacher, batch = case()
    wrong = batch._replace(target=(batch.target + 1) % 3)
    assert terms(network(0), teacher, wrong)["bss_boundary"] == 0


def test_gradient_reaches_the_student_and_no_teacher():
    teacher, batch = case()
    student = network(1, scale=5.0)
    terms(student, teacher, batch)["bss_boundary"].backward()
    assert student[1].weight.grad.any()
    assert teacher[1].weight.grad is None


def test_clean_gradient_equals_finite_differences():
    guide = ModelOutput(torch.randn(4, 3, dtype=torch.float64), {})
    batch = Batch(torch.rand(4, 3, 4, 4), guide.logits.argmin(1), torch.arange(4))

    def clean(logits):
        return make()(ModelOutput(logits, {}), [guide], batch)["bss_clean"]

    assert torch.autograd.gradcheck(clean, torch.randn(4, 3, dtype=torch.float64).requires_grad_())


def test_a_few_steps_on_bss_alone_shrink_it():
    teacher, batch = case()
    student = network(1, scale=0.5)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    losses = []
    for _ in range(8):
        loss = torch.stack(list(terms(student, teacher, batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "bss.temperature=0: a number"),
        ({"limit": 1}, "bss.limit=1: a whole number of at least 2"),
        ({"steps": 0}, "bss.steps=0: a whole number of at least 1"),
        ({"step": 0.0}, "bss.step=0.0: a number"),
    ],
)
def test_bss_refuses_a_wrong_option(options, message):
    with pytest.raises(ConfigError, match=message):
        BSS(**options)
