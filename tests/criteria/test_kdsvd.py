import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from criteria_toy import DATA, FeatureRig, Pair, draw, spec

from kdbench.core.errors import ConfigError
from kdbench.criteria.kdsvd import KDSVD, aligned_vectors, leading_vectors

STAGES = [(3, 4, 4), (4, 2, 2), (6, 2, 2)], [(3, 2, 3), (4, 2, 2), (6, 3, 3)]


class TestPromises(FeatureRig):
    def make(self):
        return Pair(KDSVD(components=2), *STAGES)


def oracle_stage(own, other, components):
    """Vectors of one sample and stage, `[C][k]` for the student and the teacher."""
    _, _, own = np.linalg.svd(own.reshape(len(own), -1).T, full_matrices=False)
    _, strength, other = np.linalg.svd(other.reshape(len(other), -1).T, full_matrices=False)
    other = [row * math.copysign(1.0, sum(row)) for row in other]
    length = math.sqrt(sum(value**2 for value in strength[:components]))
    student, teacher = [], []
    for n in range(components):
        cosines = [sum(x * y for x, y in zip(row, other[n], strict=True)) for row in own[: components + 3]]
        best = max(range(len(cosines)), key=lambda m: abs(cosines[m]))
        share = strength[n] / length
        student.append([math.copysign(share, cosines[best]) * x for x in own[best]])
        teacher.append([share * y for y in other[n]])
    return student, teacher


def oracle(student, teacher, components):
    total, size = 0.0, len(student[0])
    for b in range(size):
        stages = [oracle_stage(own[b], other[b], components) for own, other in zip(student, teacher, strict=True)]
        for shallow, deep in pairwise(stages):
            for n in range(components):
                for p in range(len(deep[0][n])):
                    for q in range(len(shallow[0][n])):
                        s, t = (math.exp(-((deep[x][n][p] - shallow[x][n][q]) ** 2) / 8) for x in (0, 1))
                        total += (s - t) ** 2
    return total / size


@pytest.mark.parametrize("components", [1, 2])
def test_kdsvd_equals_the_definition(components):
    pair = Pair(KDSVD(components=components), *STAGES)
    student, teacher = ([np.asarray(maps) for maps in side] for side in (pair.student, pair.teacher))
    assert pair.total().item() == pytest.approx(oracle(student, teacher, components), rel=1e-9)


def test_kdsvd_is_zero_for_a_scaled_or_mirrored_copy():
    shapes = [(3, 4, 4), (4, 2, 2)]
    pair = Pair(KDSVD(), shapes, shapes)
    copies = [-3.0 * maps.flip(3) for maps in pair.teacher]
    assert pair.total(*copies).item() == pytest.approx(0.0, abs=1e-20)


def test_teacher_s_sign_changes_nothing():
    pair = Pair(KDSVD(), *STAGES)
    torch.testing.assert_close(pair.total(teacher=[-pair.teacher[0], *pair.teacher[1:]]), pair.total())


def test_student_s_vectors_are_found_when_they_changed_places():
    basis, _ = torch.linalg.qr(draw(4, 4))
    strengths = torch.tensor([3.0, 2.0, 1.0, 0.5]).double()
    student, teacher = (((order * basis) @ basis.T).reshape(1, 4, 2, 2) for order in (strengths.flip(0), strengths))
    own, other = aligned_vectors(student, teacher, components=1)
    torch.testing.assert_close(own, other)
    torch.testing.assert_close(other[0, :, 0].abs(), basis[:, 0].abs())
    torch.testing.assert_close(leading_vectors(student, 1)[0][0, :, 0].abs(), basis[:, 3].abs())


def test_dead_channels_leave_the_gradient_finite_where_svd_gives_none():
    maps = draw(2, 5, 3, 3)
    maps[:, 2:4] = 0.0
    maps.requires_grad_()
    direction = draw(2, 5, 1, seed=1)
    (leading_vectors(maps, 1)[0] * direction).sum().abs().backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()
    assert maps.grad.any()
    _, _, rows = torch.linalg.svd(maps.flatten(2).transpose(1, 2), full_matrices=False)
    (theirs,) = torch.autograd.grad((rows[:, :1].transpose(1, 2) * direction).sum(), maps)
    assert not theirs.isfinite().all()


def test_nearly_equal_leading_values_do_not_make_the_gradient_explode():
    basis, _ = torch.linalg.qr(draw(4, 4))
    maps = ((torch.tensor([2.0, 2.0 - 1e-9, 1.0, 0.5]).double() * basis) @ basis.T).reshape(1, 4, 2, 2).requires_grad_()
    (leading_vectors(maps, 1)[0] * draw(1, 4, 1, seed=1)).sum().backward()
    assert maps.grad is not None
    assert 0 < maps.grad.abs().max() < 10


def test_numbers_that_are_not_finite_count_as_zero():
    maps, zeroed = draw(2, 3, 2, 2), draw(2, 3, 2, 2)
    maps[0, 0, 0, :2], zeroed[0, 0, 0, :2] = torch.tensor([float("nan"), float("inf")]).double(), 0.0
    torch.testing.assert_close(leading_vectors(maps, 2), leading_vectors(zeroed, 2))


def test_gradient_is_that_of_svd_where_singular_values_differ():
    maps = draw(2, 3, 2, 4).requires_grad_()
    weight = draw(2, 3, 3, seed=1)
    ours, _ = leading_vectors(maps, 2)
    _, _, rows = torch.linalg.svd(maps.flatten(2).transpose(1, 2), full_matrices=False)
    theirs = rows[:, :2].transpose(1, 2)
    gradients = [torch.autograd.grad((v @ v.transpose(1, 2) * weight).sum(), maps)[0] for v in (ours, theirs)]
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(
    ("student", "teacher", "components", "message"),
    [
        (
            [(3, 2, 2)] * 2,
            [(3, 2, 2), (4, 2, 2)],
            1,
            "KDSVD needs equal channels at every stage, but toy has 3 where toy",
        ),
        ([(3, 2, 2)] * 2, [(3, 2, 2)], 1, "KDSVD relates consecutive stages, but toy and toy share one"),
        ([(3, 2, 2)] * 2, [(3, 2, 2)] * 2, 4, r"kdsvd.components=4: more than a map of \(3, 2, 2\)"),
    ],
)
def test_kdsvd_refuses_what_it_cannot_relate(student, teacher, components, message):
    with pytest.raises(ConfigError, match=message):
        KDSVD(components=components).setup(spec(student), [spec(teacher)], DATA)
