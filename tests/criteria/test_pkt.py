import math

import numpy as np
import pytest
import torch
from criteria_toy import FeatureRig, Pair, draw

from kdbench.criteria.pkt import PKT, neighbour_probabilities, pkt_loss


class TestPromises(FeatureRig):
    lr = 10.0

    def make(self):
        return Pair(PKT(), [(3,)], [(5,)])


def oracle_probabilities(points):
    unit = [point / (math.sqrt(sum(value**2 for value in point)) + 1e-7) for point in points]
    kernel = [[(sum(x * y for x, y in zip(a, b, strict=True)) + 1) / 2 for b in unit] for a in unit]
    return [[value / sum(row) for value in row] for row in kernel]


def test_pkt_equals_the_definition():
    student, teacher = draw(5, 3), draw(5, 4, seed=1)
    q, p = oracle_probabilities(np.asarray(student)), oracle_probabilities(np.asarray(teacher))
    every = range(5)
    total = sum(p[i][j] * math.log((p[i][j] + 1e-7) / (q[i][j] + 1e-7)) for i in every for j in every)
    assert pkt_loss(student, teacher).item() == pytest.approx(total / 25, rel=1e-9)


def test_the_mean_is_over_all_pairs_so_that_it_is_b_times_less_than_a_row_s_divergence():
    student, teacher = draw(5, 3), draw(5, 4, seed=1)
    q, p = neighbour_probabilities(student), neighbour_probabilities(teacher)
    torch.testing.assert_close(p.sum(1), torch.ones(5, dtype=torch.float64))
    divergence = torch.nn.functional.kl_div(q.log(), p, reduction="batchmean")
    torch.testing.assert_close(5 * pkt_loss(student, teacher), divergence, rtol=1e-5, atol=0)


def test_pkt_is_zero_for_a_scaled_copy_and_defined_for_opposite_samples():
    points = draw(5, 3)
    assert pkt_loss(5.0 * points, points).item() == pytest.approx(0.0, abs=1e-7)
    opposite = torch.cat([points, -points]).requires_grad_()
    loss = pkt_loss(opposite, draw(10, 4, seed=1))
    loss.backward()
    assert loss.isfinite()
    assert opposite.grad is not None
    assert opposite.grad.isfinite().all()
