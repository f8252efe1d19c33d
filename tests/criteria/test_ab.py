import pytest
import torch
from criteria_toy import DATA, FeatureRig, Pair, draw, spec
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.criteria.ab import AB, boundary_loss

SAME = [(3, 4, 4), (4, 2, 2), (5, 2, 2)]


class TestPromises(FeatureRig):
    lr = 20.0

    def make(self):
        return Pair(AB(), SAME, SAME)


class TestPromisesWithConnectors(FeatureRig):
    lr = 20.0
    plain = False

    def make(self):
        return Pair(AB(), [(3, 4, 4), (4, 2, 2)], [(5, 4, 4), (4, 4, 4)])


def oracle(student, teacher, margin):
    """As the spec has it, element by element."""
    total, stages = 0.0, len(student)
    for i, (own, other) in enumerate(zip(student, teacher, strict=True)):
        for s, t in zip(own.flatten().tolist(), other.flatten().tolist(), strict=True):
            weight = 2.0 ** (i - stages + 1)
            if s > -margin and t <= 0:
                total += weight * (s + margin) ** 2
            if s <= margin and t > 0:
                total += weight * (s - margin) ** 2
    return total * 3 / (1000 * len(student[0]))


@pytest.mark.parametrize("margin", [1.0, 0.3])
def test_ab_equals_the_definition(margin):
    pair = Pair(AB(margin=margin), SAME, SAME)
    expected = oracle(pair.student, pair.teacher, margin)
    assert pair.total().item() == pytest.approx(expected, rel=1e-9)


def test_only_the_teacher_s_signs_count_and_neurons_beyond_the_margin_are_left_alone():
    own, other = draw(2, 3, 2, 2), draw(2, 3, 2, 2, seed=1)
    torch.testing.assert_close(boundary_loss(own, 100.0 * other, margin=1.0), boundary_loss(own, other, margin=1.0))
    assert boundary_loss(1.5 * other.sign(), other, margin=1.0).item() == 0.0
    assert boundary_loss(other, other, margin=1.0).item() > 0.0


def test_connectors_have_no_relu_and_equal_shapes_need_none():
    made = Pair(AB(), [(3, 4, 4), (4, 2, 2)], [(3, 4, 4), (5, 2, 2)]).criterion.connectors
    assert isinstance(made[0], nn.Identity)
    assert [type(layer) for layer in made[1]] == [nn.Conv2d, nn.BatchNorm2d]


def test_a_margin_of_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"ab\.margin=0"):
        AB(margin=0)


def test_a_teacher_map_that_no_convolution_reaches_is_refused():
    with pytest.raises(ConfigError, match="no convolution leads"):
        AB().setup(spec([(3, 4, 4)]), [spec([(3, 6, 6)])], DATA)
