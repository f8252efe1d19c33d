import pytest
import torch
from criteria_toy import DATA, FeatureRig, Pair, draw, spec
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.criteria.simkd import SimKD, projector

HEAD = nn.Linear(4, 3)


class TestPromises(FeatureRig):
    def make(self):
        return Pair(SimKD(), [(4, 2, 2)], [(4, 4, 4)])


def test_simkd_equals_the_definition_with_the_teacher_s_larger_map_pooled():
    pair = Pair(SimKD(), [(2, 2, 2)], [(2, 4, 4)])
    (own,), (other,) = pair.student, pair.teacher
    total = 0.0
    for b, c, h, w in torch.cartesian_prod(*map(torch.arange, own.shape)).tolist():
        mean = sum(other[b, c, 2 * h + i, 2 * w + j].item() for i in (0, 1) for j in (0, 1)) / 4
        total += (own[b, c, h, w].item() - mean) ** 2
    assert pair.total().item() == pytest.approx(total / own.numel(), rel=1e-9)


def test_parts_are_the_projector_and_a_frozen_copy_of_the_teacher_s_classifier():
    head, made = SimKD(factor=2).parts(spec([(3, 4, 4)]), [spec([(4, 4, 4)], head=HEAD)], DATA)
    assert head is not HEAD
    assert not any(parameter.requires_grad for parameter in head.parameters())
    assert HEAD.weight.requires_grad
    torch.testing.assert_close(head(torch.ones(1, 4)), HEAD(torch.ones(1, 4)))
    assert made is not None
    assert made(draw(2, 3, 4, 4).float()).shape == (2, 4, 4, 4)


def test_projector_is_that_of_the_authors():
    layers = projector((3, 4, 4), (8, 4, 4), 2.0)
    convs = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in convs] == [(3, 4, 1), (4, 4, 3), (4, 8, 1)]
    assert all(conv.bias is None for conv in convs)
    assert [type(layer) for layer in layers[-2:]] == [nn.BatchNorm2d, nn.ReLU]


def test_a_larger_student_map_is_pooled_before_the_projector():
    assert projector((3, 8, 8), (8, 4, 4), 2.0)(draw(2, 3, 8, 8).float()).shape == (2, 8, 4, 4)


@pytest.mark.parametrize("head", [None, nn.Linear(9, 3)])
def test_a_teacher_without_one_linear_classifier_behind_the_map_is_refused(head):
    with pytest.raises(ConfigError, match="SimKD needs a network whose classifier is one linear layer"):
        SimKD().parts(spec([(3, 4, 4)]), [spec([(4, 4, 4)], head=head)], DATA)


def test_a_factor_of_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"simkd\.factor=0"):
        SimKD(factor=0)
