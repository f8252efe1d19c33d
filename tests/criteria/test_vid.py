import math

import numpy as np
import pytest
import torch
from criteria_toy import FeatureRig, Pair, draw
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.criteria.vid import VID, rho_of, vid_loss


class TestPromises(FeatureRig):
    lr = 3.0
    plain = False

    def make(self):
        return Pair(VID(), [(3, 4, 4), (4, 2, 2)], [(2, 8, 8), (5, 2, 2)])


def oracle(mean, teacher, rho):
    mean, teacher, rho = np.asarray(mean), np.asarray(teacher), np.asarray(rho)
    total = 0.0
    for (b, c, h, w), value in np.ndenumerate(teacher):
        variance = math.log(1 + math.exp(rho[c])) + 1e-5
        total += ((mean[b, c, h, w] - value) ** 2 / variance + math.log(variance)) / 2
    return total / teacher.size


def test_vid_equals_the_definition():
    mean, teacher, rho = draw(3, 4, 2, 3), draw(3, 4, 2, 3, seed=1), draw(4, seed=2)
    assert vid_loss(mean, teacher, rho).item() == pytest.approx(oracle(mean, teacher, rho), rel=1e-12)


def test_vid_gradient_of_the_variance_equals_finite_differences():
    inputs = [draw(2, 3, 2, 2, seed=seed) for seed in range(2)] + [draw(3, seed=2)]
    assert torch.autograd.gradcheck(vid_loss, [tensor.requires_grad_() for tensor in inputs])


@pytest.mark.parametrize("variance", [0.1, 5.0])
def test_vid_of_a_perfect_mean_is_half_the_log_variance_it_starts_with(variance):
    maps = draw(2, 3, 2, 2)
    (rho,) = Pair(VID(variance=variance), [(3, 2, 2)], [(3, 2, 2)]).criterion.rhos
    assert vid_loss(maps, maps, rho.double()).item() == pytest.approx(math.log(variance) / 2, rel=1e-5)
    assert rho_of(5.0) == pytest.approx(math.log(math.exp(5.0 - 1e-5) - 1), rel=1e-12)


def test_variances_are_parameters_that_move_and_are_saved():
    pair = Pair(VID(), [(3, 2, 2)], [(4, 2, 2)])
    before = pair.criterion.rhos[0].detach().clone()
    optimizer = torch.optim.SGD(pair.criterion.parameters(), lr=0.1)
    pair.total().backward()
    optimizer.step()
    assert before.shape == (4,)
    assert (pair.criterion.rhos[0] != before).all()
    assert "rhos.0" in pair.criterion.state_dict()


def test_mean_is_three_convolutions_of_one_pixel_without_bias():
    pair = Pair(VID(), [(3, 2, 2)], [(5, 2, 2)])
    layers = list(pair.criterion.means[0])
    convs = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert [conv.weight.shape for conv in convs] == [(5, 3, 1, 1), (5, 5, 1, 1), (5, 5, 1, 1)]
    assert all(conv.bias is None for conv in convs)


def test_maps_are_pooled_before_the_convolutions():
    pair = Pair(VID(), [(3, 4, 4)], [(5, 2, 2)])
    pooled = pair.student[0].reshape(4, 3, 2, 2, 2, 2).mean(dim=(3, 5))
    torch.testing.assert_close(pair.terms(), pair.terms(pooled))


def test_vid_refuses_a_variance_below_its_floor():
    with pytest.raises(ConfigError, match=r"vid.variance=0: a number between 1e-05 and inf"):
        VID(variance=0)
