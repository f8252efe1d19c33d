import math

import numpy as np
import pytest
import torch
from criteria_toy import DATA, FeatureRig, Pair, draw, spec

from kdbench.core.errors import ConfigError
from kdbench.criteria.at import AT, at_loss, attention_map

FORMS = ("released", "paper")


class TestPromises(FeatureRig):
    lr = 1.0

    def make(self):
        return Pair(AT(), [(3, 4, 4), (4, 2, 2)], [(2, 8, 8), (5, 2, 2)])


class TestPromisesOfThePapersForm(TestPromises):
    def make(self):
        return Pair(AT(form="paper"), [(3, 4, 4), (4, 2, 2)], [(2, 8, 8), (5, 2, 2)])


def oracle_map(maps):
    channels, height, width = maps.shape
    energy = [sum(maps[c, h, w] ** 2 for c in range(channels)) for h in range(height) for w in range(width)]
    length = math.sqrt(sum(value**2 for value in energy))
    return [value / length for value in energy]


def oracle(student, teacher, form):
    total = 0.0
    for own, other in zip(np.asarray(student), np.asarray(teacher), strict=True):
        squares = [(a - b) ** 2 for a, b in zip(oracle_map(own), oracle_map(other), strict=True)]
        total += sum(squares) / len(squares) if form == "released" else math.sqrt(sum(squares)) / 2
    return total / len(student)


@pytest.mark.parametrize("form", FORMS)
def test_at_equals_the_definition(form):
    student, teacher = draw(3, 4, 2, 3), draw(3, 5, 2, 3, seed=1)
    assert at_loss(student, teacher, form=form).item() == pytest.approx(oracle(student, teacher, form), rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_at_of_a_student_that_looks_alike_is_zero_whatever_its_scale(form):
    maps = draw(3, 4, 2, 2).requires_grad_()
    loss = at_loss(-3.0 * maps, maps.detach(), form=form)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-15)
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


def test_larger_map_is_average_pooled_to_the_smaller():
    student, teacher = draw(2, 3, 4, 4), draw(2, 3, 2, 2, seed=1)
    pooled = student.reshape(2, 3, 2, 2, 2, 2).mean(dim=(3, 5))
    expected = at_loss(pooled, teacher, form="released")
    torch.testing.assert_close(at_loss(student, teacher, form="released"), expected)
    torch.testing.assert_close(at_loss(teacher, student, form="released"), expected)


def test_stages_are_added_and_the_surplus_of_the_longer_list_is_left_out():
    pair = Pair(AT(), [(3, 4, 4), (4, 2, 2)], [(3, 4, 4), (4, 2, 2), (5, 2, 2)])
    singles = [at_loss(own, other, form="released") for own, other in zip(pair.student, pair.teacher, strict=False)]
    torch.testing.assert_close(pair.terms()["at"], singles[0] + singles[1])


def test_attention_is_high_where_the_energy_is():
    maps = torch.zeros(1, 2, 1, 2)
    maps[0, :, 0, 0], maps[0, :, 0, 1] = -2.0, 1.0
    torch.testing.assert_close(attention_map(maps), torch.tensor([[4.0, 1.0]]) / math.sqrt(17))


def test_at_refuses_an_unknown_form_and_vectors():
    with pytest.raises(ConfigError, match=r"at.form=papers: unknown; did you mean 'paper'"):
        AT(form="papers")
    with pytest.raises(ConfigError, match=r"AT reads maps \(C, H, W\), but tap0 of toy has the shape \(3,\)"):
        AT().setup(spec([(3,)]), [spec([(3, 2, 2)])], DATA)
