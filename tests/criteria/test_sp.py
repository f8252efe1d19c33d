import math

import numpy as np
import pytest
import torch
from criteria_toy import FeatureRig, Pair, draw

from kdbench.criteria.sp import SP, similarities, sp_loss


class TestPromises(FeatureRig):
    lr = 1.0

    def make(self):
        return Pair(SP(), [(3, 2, 2)], [(5, 4, 4)])


def oracle_gram(features):
    flat = np.asarray(features).reshape(len(features), -1)
    gram = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in flat] for a in flat]
    return [[value / math.sqrt(sum(v**2 for v in row)) for value in row] for row in gram]


def test_sp_equals_the_definition():
    student, teacher = draw(4, 2, 3, 2), draw(4, 5, seed=1)
    own, other = oracle_gram(student), oracle_gram(teacher)
    total = sum((own[i][j] - other[i][j]) ** 2 for i in range(4) for j in range(4))
    assert sp_loss(student, teacher).item() == pytest.approx(total / 16, rel=1e-12)


def test_rows_and_not_columns_have_length_one():
    gram = similarities(draw(4, 6))
    torch.testing.assert_close(gram.norm(dim=1), torch.ones(4, dtype=torch.float64))
    assert not torch.allclose(gram, gram.T)


def test_sp_is_zero_for_a_scaled_copy_and_for_its_taps_added():
    features = draw(4, 3, 2, 2)
    assert sp_loss(5.0 * features, features).item() == pytest.approx(0.0, abs=1e-20)
    pair = Pair(SP(), [(3, 2, 2), (4,)], [(5, 4, 4), (6,)])
    parts = [sp_loss(own, other) for own, other in zip(pair.student, pair.teacher, strict=True)]
    torch.testing.assert_close(pair.terms()["sp"], parts[0] + parts[1])


def test_repeating_every_sample_divides_sp_by_two():
    # Entries of a row of length one shrink by the root of 2; the mean square, which is the sum over B squared, by 2.
    student, teacher = draw(4, 6), draw(4, 5, seed=1)
    twice = sp_loss(student.repeat(2, 1), teacher.repeat(2, 1))
    torch.testing.assert_close(2.0 * twice, sp_loss(student, teacher))
