import math

import numpy as np
import pytest
import torch
from criteria_toy import DATA, FeatureRig, Pair, draw, spec
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import NetworkSpec
from kdbench.criteria.ofd import OFD, margins, partial_l2

STUDENT, TEACHER = [(3, 4, 4), (5, 2, 2)], [(2, 8, 8), (4, 4, 4), (6, 4, 4)]


def norms(shapes):
    torch.manual_seed(7)
    made = {f"tap{number}": nn.BatchNorm2d(shape[0]) for number, shape in enumerate(shapes)}
    for norm in made.values():
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return made


class OFDPair(Pair):
    """A pair whose teacher has BatchNorms."""

    def __init__(self):
        plain = spec(TEACHER)
        self.teacher_spec = NetworkSpec(plain.name, 3, plain.shapes, norms=norms(TEACHER))
        criterion = OFD()
        setup = criterion.setup
        criterion.setup = lambda student, _, data: setup(student, [self.teacher_spec], data)
        super().__init__(criterion, STUDENT, TEACHER)


class TestPromises(FeatureRig):
    plain = False
    lr = 1e-4

    def make(self):
        return OFDPair()


def test_margin_is_the_mean_of_negative_values():
    scale, shift = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.3, -1.0, 1.0]).double()
    samples = shift + scale.abs() * draw(400_000, 1)
    expected = [column[column < 0].mean().item() for column in samples.T]
    assert margins(scale, shift).tolist() == pytest.approx(expected, abs=0.02)


def test_margin_where_negative_values_are_rare_or_the_channel_is_dead():
    found = margins(torch.tensor([0.1, 0.0, 0.0]), torch.tensor([1.0, 1.0, -1.0]))
    assert found.tolist() == pytest.approx([-0.3, 0.0, -1.0], abs=1e-6)
    assert margins(torch.zeros(1), torch.zeros(1)).item() == pytest.approx(0, abs=1e-6)


def oracle(s, t, m):
    total = 0.0
    for b, c, h, w in np.ndindex(*s.shape):
        own, other, margin = s[b, c, h, w], t[b, c, h, w], m[c]
        if other > 0:
            total += (own - other) ** 2
        elif other > margin:
            total += (own - other) ** 2 * (own > other)
        else:
            total += (own - margin) ** 2 * (own > margin)
    return total / len(s)


def test_partial_distance_equals_the_three_cases_of_the_paper():
    s, t, m = draw(3, 4, 2, 2), draw(3, 4, 2, 2, seed=1), -draw(4, seed=2).abs() / 2
    assert partial_l2(s, t, m).item() == pytest.approx(oracle(*(np.asarray(x) for x in (s, t, m))), rel=1e-9)


def test_stages_are_paired_from_the_last_and_the_earlier_count_half():
    pair = OFDPair()
    expected = 0.0
    for number, (own, other, share) in enumerate(zip(pair.student, pair.teacher[1:], (0.5, 1.0), strict=True)):
        norm = pair.teacher_spec.norms[f"tap{number + 1}"]
        guide = other if number == 0 else other.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5))
        mapped = pair.criterion.connectors[number](own)
        margin = margins(norm.weight, norm.bias).double()
        expected += share * oracle(*(np.asarray(x.detach()) for x in (mapped, guide, margin)))
    assert pair.terms()["ofd"].item() == pytest.approx(expected, rel=1e-5)


def test_ofd_is_zero_below_both_zeros_and_where_the_student_is_right():
    s = torch.tensor([-5.0, -0.2, 2.0]).reshape(1, 3, 1, 1)
    t = torch.tensor([-1.0, -0.1, 2.0]).reshape(1, 3, 1, 1)
    assert partial_l2(s, t, torch.full((3,), -0.5)) == 0


def test_margins_are_neither_trained_nor_saved():
    criterion = OFDPair().criterion
    assert all(name.startswith("connectors") for name, _ in criterion.named_parameters())
    assert all(name.startswith("connectors") for name in criterion.state_dict())
    assert math.isfinite(criterion.margin0.sum())


def test_ofd_refuses_a_teacher_without_batch_norm_at_its_tap():
    shapes = spec([(3, 4, 4)])
    with pytest.raises(
        ConfigError, match=r"OFD takes margins from a BatchNorm before each tap .* tap0 of toy has none"
    ):
        OFD().setup(shapes, [shapes], DATA)
