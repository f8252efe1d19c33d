import math

import numpy as np
import pytest
import torch
from criteria_toy import FeatureRig, Pair, draw

from kdbench.criteria.nst import NST, nst_loss


class TestPromises(FeatureRig):
    lr = 1.0

    def make(self):
        return Pair(NST(), [(3, 4, 4), (4, 2, 2)], [(2, 8, 8), (5, 2, 2)])


def oracle_kernel(first, second):
    total = 0.0
    for own, other in zip(first, second, strict=True):
        for x in own.reshape(len(own), -1):
            for y in other.reshape(len(other), -1):
                lengths = math.sqrt(sum(v**2 for v in x)) * math.sqrt(sum(v**2 for v in y))
                total += (sum(a * b for a, b in zip(x, y, strict=True)) / lengths) ** 2
    return total / (len(first) * first.shape[1] * second.shape[1])


def test_nst_equals_the_definition():
    student, teacher = draw(3, 4, 2, 3), draw(3, 5, 2, 3, seed=1)
    own, other = np.asarray(student), np.asarray(teacher)
    expected = oracle_kernel(other, other) + oracle_kernel(own, own) - 2 * oracle_kernel(own, other)
    assert nst_loss(student, teacher).item() == pytest.approx(expected, rel=1e-9)


def test_nst_is_zero_for_the_same_channels_in_another_order_and_scale():
    maps = draw(3, 4, 2, 2)
    assert nst_loss(-2.0 * maps.flip(1), maps).item() == pytest.approx(0.0, abs=1e-12)


def test_nst_is_the_distance_of_second_moments_so_never_negative():
    student, teacher = draw(3, 4, 2, 2), draw(3, 6, 2, 2, seed=1)
    own, other = (torch.nn.functional.normalize(maps.flatten(2), dim=2) for maps in (student, teacher))
    moments = [x.transpose(1, 2) @ x / x.shape[1] for x in (own, other)]
    torch.testing.assert_close(nst_loss(student, teacher), (moments[0] - moments[1]).square().sum((1, 2)).mean())


def test_a_dead_channel_of_the_student_has_no_gradient():
    maps = draw(2, 3, 2, 2)
    maps[:, 1] = 0.0
    nst_loss(maps.requires_grad_(), draw(2, 3, 2, 2, seed=1)).backward()
    assert maps.grad is not None
    assert not maps.grad[:, 1].any()
    assert maps.grad[:, 0].any()


def test_stages_are_added():
    pair = Pair(NST(), [(3, 4, 4), (4, 2, 2)], [(2, 8, 8), (5, 2, 2)])
    parts = [nst_loss(own, other) for own, other in zip(pair.student, pair.teacher, strict=True)]
    torch.testing.assert_close(pair.terms()["nst"], parts[0] + parts[1])
