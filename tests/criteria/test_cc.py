import numpy as np
import pytest
from criteria_toy import DATA, FeatureRig, Pair, draw, spec

from kdbench.core.errors import ConfigError
from kdbench.criteria.cc import CC, cc_loss


class TestPromises(FeatureRig):
    lr = 0.01
    plain = False

    def make(self):
        return Pair(CC(), [(3,)], [(5,)])


def test_cc_equals_the_definition():
    pair = Pair(CC(dim=6), [(3,)], [(4,)], size=5)
    sides = (pair.student[0], pair.criterion.student_embedding), (pair.teacher[0], pair.criterion.teacher_embedding)
    own, other = (
        [[sum(w * x for w, x in zip(row, point, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
         for point in np.asarray(points)]
        for points, weight, bias in (
            (points, layer.weight.detach().numpy(), layer.bias.detach().numpy()) for points, layer in sides
        )
    )  # fmt: skip
    error = [[abs(a - b) for a, b in zip(x, y, strict=True)] for x, y in zip(own, other, strict=True)]
    total = sum(error[b][d] * error[b + 1][d] for b in range(4) for d in range(6))
    assert pair.terms()["cc"].item() == pytest.approx(total / 4, rel=1e-9)


def test_first_and_last_sample_are_no_neighbours():
    student = draw(3, 2) * 0.0
    teacher = student.clone()
    teacher[0], teacher[2] = 1.0, 1.0
    assert cc_loss(student, teacher).item() == 0.0


def test_cc_is_zero_for_equal_embeddings_and_for_a_lone_sample():
    points = draw(4, 3)
    assert cc_loss(points, points).item() == 0.0
    assert cc_loss(points[:1], points[1:2]).item() == 0.0


def test_both_embeddings_are_trained():
    pair = Pair(CC(), [(3,)], [(5,)])
    pair.total().backward()
    assert all(p.grad is not None and p.grad.any() for p in pair.criterion.parameters())


def test_cc_reads_one_vector():
    with pytest.raises(ConfigError, match=r"CC reads vectors \(D,\), but tap0 of toy has the shape \(3, 2, 2\)"):
        CC().setup(spec([(3, 2, 2)]), [spec([(3,)])], DATA)
    with pytest.raises(ConfigError, match="CC reads exactly one tap of the teacher, here are 2"):
        CC().setup(spec([(3,)]), [spec([(3,), (4,)])], DATA)
    with pytest.raises(ConfigError, match=r"cc.dim=0: a number"):
        CC(dim=0)
