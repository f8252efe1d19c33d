import math

import numpy as np
import pytest
import torch
from criteria_toy import FeatureRig, Pair, draw

from kdbench.criteria.rkd import RKD, angles, relative_distances, rkd_angle_loss, rkd_distance_loss


class TestPromises(FeatureRig):
    def make(self):
        return Pair(RKD(), [(3,)], [(5,)], size=5)


def length(vector):
    return math.sqrt(sum(value**2 for value in vector))


def smooth_l1(difference):
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


def oracle_distances(points):
    table = [[length(a - b) for b in points] for a in points]
    positive = [value for row in table for value in row if value > 0]
    mean = sum(positive) / len(positive)
    return [[value / mean for value in row] for row in table]


def oracle_angle(points, i, j, k):
    if i in (j, k):
        return 0.0
    a, b = points[j] - points[i], points[k] - points[i]
    return sum(x * y for x, y in zip(a, b, strict=True)) / (length(a) * length(b))


def test_rkd_equals_the_definition():
    pair = Pair(RKD(), [(3,)], [(4,)], size=5)
    pair.student[0] *= 7.0
    own, other = np.asarray(pair.student[0]), np.asarray(pair.teacher[0])
    d, e = oracle_distances(own), oracle_distances(other)
    every = range(5)
    distance = sum(smooth_l1(d[j][k] - e[j][k]) for j in every for k in every) / 25
    angle = sum(
        smooth_l1(oracle_angle(own, i, j, k) - oracle_angle(other, i, j, k))
        for i in every
        for j in every
        for k in every
    )
    terms = pair.terms()
    assert terms["rkd_distance"].item() == pytest.approx(distance, rel=1e-9)
    assert terms["rkd_angle"].item() == pytest.approx(angle / 125, rel=1e-9)


def test_smooth_l1_is_linear_beyond_one():
    near, far = torch.tensor([[0.0], [1e-3], [1.0]]), torch.tensor([[0.0], [1.0], [1e-3]])
    d, e = oracle_distances(near.double().numpy()), oracle_distances(far.double().numpy())
    assert max(abs(x - y) for a, b in zip(d, e, strict=True) for x, y in zip(a, b, strict=True)) > 1
    expected = sum(smooth_l1(d[j][k] - e[j][k]) for j in range(3) for k in range(3)) / 9
    assert rkd_distance_loss(near, far).item() == pytest.approx(expected, rel=1e-5)


def test_rkd_is_zero_for_a_moved_scaled_and_turned_copy():
    teacher = draw(5, 3)
    turn, _ = torch.linalg.qr(draw(3, 3, seed=1))
    student = 4.0 * teacher @ turn + 2.0
    assert rkd_distance_loss(student, teacher).item() == pytest.approx(0.0, abs=1e-20)
    assert rkd_angle_loss(student, teacher).item() == pytest.approx(0.0, abs=1e-20)


def test_gradient_flows_through_the_mean_distance():
    points = draw(5, 3).requires_grad_()
    (relative_distances(points) ** 2).sum().backward()
    assert points.grad is not None
    # In units of the mean, distances do not change with the scale, so no gradient can point outwards.
    assert (points.grad * points.detach()).sum().abs() < 1e-12


def test_diagonal_and_degenerate_angles_are_zero():
    assert not relative_distances(draw(4, 3)).diag().any()
    cosines = angles(draw(4, 3))
    assert all(not cosines[i, i].any() and not cosines[i, :, i].any() for i in range(4))


def test_two_equal_samples_of_the_student_have_a_finite_gradient():
    points = torch.cat([draw(2, 3), draw(2, 3)[:1]]).requires_grad_()
    (rkd_distance_loss(points, draw(3, 3, seed=1)) + rkd_angle_loss(points, draw(3, 3, seed=1))).backward()
    assert points.grad is not None
    assert points.grad.abs().max() < 10


def test_near_samples_keep_their_distance_in_float32():
    points = torch.tensor([[100.0, 0.0], [100.001, 0.0], [103.0, 4.0]])
    d = relative_distances(points)
    expected = (points[1, 0] - points[0, 0]) / torch.linalg.vector_norm(points[2] - points[0])
    assert (d[0, 1] / d[0, 2]).item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_lone_sample_costs_nothing():
    pair = Pair(RKD(), [(3,)], [(5,)], size=1)
    assert pair.total().item() == 0.0


def test_maps_are_flattened():
    pair = Pair(RKD(), [(2, 2, 3)], [(5,)])
    flat = pair.terms(pair.student[0].flatten(1))
    torch.testing.assert_close(pair.terms(), flat)
