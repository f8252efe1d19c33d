from itertools import permutations

import pytest
import torch

from kdbench.metrics.cka import LinearCKA, hsic


def draw(rows, width, seed):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cka(pairs):
    measure = LinearCKA()
    for first, second in pairs:
        measure.update(first, second)
    return measure.compute()


def test_hsic_is_the_mean_over_quadruples_of_different_samples():
    k, l = (features @ features.T for features in (draw(6, 3, 0), draw(6, 2, 1)))  # noqa: E741
    terms = [
        (k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q])).item() for i, j, q, r in permutations(range(6), 4)
    ]  # Song et al. 2012, Eq. 4: the U-statistic
    assert hsic(k, l).item() == pytest.approx(sum(terms) / len(terms))


def test_features_equal_up_to_rotation_scale_and_shift_have_similarity_one():
    features = draw(20, 5, 0)
    rotation = torch.linalg.qr(draw(5, 5, 1)).Q
    pairs = [(part, 3 * part @ rotation + 7) for part in features.split(8)]
    assert cka(pairs) == pytest.approx(1, abs=1e-5)


def test_independent_features_have_none_even_in_small_batches_of_wide_features():
    pairs = [(draw(8, 100, seed), draw(8, 100, 1000 + seed)) for seed in range(200)]
    assert abs(cka(pairs)) < 0.05  # the biased estimate gives about 0.9 here


def test_maps_of_features_are_flattened_and_batches_below_four_passed_over():
    features = draw(6, 12, 0)
    pairs = [(features.reshape(6, 3, 2, 2), features), (features[:3], -features[:3].flip(0))]
    assert cka(pairs) == pytest.approx(1, abs=1e-5)


def test_features_that_never_vary_have_no_similarity():
    assert cka([(torch.ones(5, 2), draw(5, 2, 0))]) is None
    assert cka([]) is None
