import json

import numpy as np
import pytest
import torch
from torch import nn

from kdbench.core.errors import ConfigError, DataError
from kdbench.core.types import Batch, DataSpec
from kdbench.metrics.attacks import FGSM, PGD, fgsm, pgd

DATA = DataSpec("fake", 3, (1, 2, 2), (0.0,), (1.0,))


class Scores(nn.Module):
    """Linear scores of four pixels for three classes."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(3, 4, generator=generator, dtype=torch.float64))
        self.dropout = nn.Dropout(0.5)
        self.seen, self.modes = [], set()

    def forward(self, inputs):
        self.seen.append(inputs.detach())
        self.modes.add((self.training, self.dropout.training))
        return self.dropout(inputs.flatten(1)) @ self.weight.T


class Threshold(nn.Module):
    """Class 1 where the pixels' mean exceeds a half: an attack of radius r moves the mean by r."""

    def forward(self, inputs):
        margin = inputs.flatten(1).mean(1) - 0.5
        return 10 * torch.stack([-margin, margin], dim=1)


def drawn(samples=6):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(samples, 1, 2, 2, generator=generator, dtype=torch.float64)
    return inputs, torch.arange(samples) % 3


def naive_pgd(weight, x, y, epsilon, step, steps, start):
    point = x + start
    for _ in range(steps):
        scores = weight @ point
        p = np.exp(scores - scores.max())
        p /= p.sum()
        p[y] -= 1
        moved = point + step * np.sign(weight.T @ p)
        point = np.clip(np.clip(moved, x - epsilon, x + epsilon), 0, 1)
    return point


def test_pgd_equals_its_formula_written_naively():
    network, (inputs, target) = Scores().eval(), drawn()
    start = 0.1 * (2 * torch.rand(inputs.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - 1)
    ours = pgd(network, inputs, target, epsilon=0.1, step=0.03, steps=5, start=start)
    weight = network.weight.detach().numpy()
    for row in range(len(inputs)):
        x, s = inputs[row].numpy().ravel(), start[row].numpy().ravel()
        expected = naive_pgd(weight, x, int(target[row]), 0.1, 0.03, 5, s)
        np.testing.assert_allclose(ours[row].numpy().ravel(), expected, atol=1e-7)


def test_fgsm_is_one_step_of_pgd_without_a_random_start():
    network, (inputs, target) = Scores().eval(), drawn()
    one = pgd(network, inputs, target, epsilon=0.2, step=0.2, steps=1, start=torch.zeros_like(inputs))
    torch.testing.assert_close(fgsm(network, inputs, target, epsilon=0.2), one)


def test_attacks_stay_in_the_ball_and_among_pixels_but_the_start_is_not_clipped():
    network, (inputs, target) = Scores().eval(), drawn()
    attacked = pgd(network, inputs, target, epsilon=0.3, step=0.2, steps=4, start=torch.full_like(inputs, -0.3))
    assert (attacked - inputs).abs().max() <= 0.3 + 1e-12
    assert 0 <= attacked.min() <= attacked.max() <= 1
    assert network.seen[0].min() < 0
    assert all(point.min() >= 0 for point in network.seen[1:])


def test_accuracy_falls_where_the_radius_exceeds_the_margin():
    means = torch.tensor([0.50, 0.52, 0.54, 0.58]) + 0.001
    loader = [Batch(means.reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2), torch.ones(4, dtype=torch.long), torch.arange(4))]
    for attack in (FGSM(epsilons=[4, 8, 16, 255]), PGD(epsilons=[4, 8, 16, 255])):
        result = json.loads(json.dumps(attack(Threshold(), loader, [], DATA)))
        assert (result["samples"], result["clean_acc"]) == (4, 100)
        assert result["attacks"] == [
            {"epsilon_255": 4.0, "acc": 75.0},
            {"epsilon_255": 8.0, "acc": 50.0},
            {"epsilon_255": 16.0, "acc": 25.0},
            {"epsilon_255": 255.0, "acc": 0.0},
        ]


def test_the_random_start_belongs_to_the_sample_and_the_seed_not_to_the_batch():
    inputs, target = drawn()
    index = torch.arange(6) + 10
    whole = Batch(inputs, target, index)
    network = Scores().eval()
    attacked = PGD(steps=3).attack(network, whole, 0.1)
    parts = [PGD(steps=3).attack(network, Batch(*(part[rows] for part in whole[:3])), 0.1) for rows in ([4, 1], [0])]
    torch.testing.assert_close(torch.cat(parts), attacked[[4, 1, 0]])
    assert not torch.equal(PGD(steps=3, seed=1).attack(network, whole, 0.1), attacked)


def test_measuring_leaves_modes_and_gradients_alone():
    network = Scores()
    network.dropout.train()
    network.body = nn.Identity().eval()
    PGD(steps=2)(network, [Batch(*drawn(), torch.arange(6))], [], DATA)
    assert network.modes == {(False, False)}
    assert (network.training, network.dropout.training) == (True, True)
    assert not network.body.training
    assert network.weight.grad is None
    assert network.weight.requires_grad


def test_only_the_first_samples_are_attacked_if_so_many_are_asked_for():
    inputs, target = drawn()
    rows = torch.arange(6)
    loader = [Batch(inputs[part], target[part], part) for part in rows.split(4)]
    assert FGSM(samples=5)(Scores(), loader, [], DATA)["samples"] == 5
    assert FGSM(samples=4)(Scores(), loader, [], DATA) == FGSM()(Scores(), loader[:1], [], DATA)
    assert FGSM(samples=6)(Scores(), [*loader, None], [], DATA) == FGSM()(Scores(), loader, [], DATA)
    with pytest.raises(DataError, match="no batch"):
        FGSM()(Scores(), [], [], DATA)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epsilons": []}, "in 1/255"),
        ({"epsilons": [0]}, "in 1/255"),
        ({"epsilons": ["8/255"]}, "in 1/255"),
        ({"samples": 0}, "at least 1"),
        ({"steps": 0}, "steps=0"),
        ({"step": 0.0}, "step=0.0"),
    ],
)
def test_numbers_out_of_range_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        PGD(**options)
