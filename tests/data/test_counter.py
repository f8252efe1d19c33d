import numpy as np
import torch

from kdbench.data.counter import draw, fold, sample_keys, shuffled


def chi_square(outcomes: torch.Tensor, count: int) -> float:
    """In units of its standard deviation from its mean, for ``count`` equally likely outcomes."""
    seen = outcomes.bincount(minlength=count).double()
    expected = len(outcomes) / count
    statistic = ((seen - expected) ** 2 / expected).sum().item()
    return (statistic - (count - 1)) / (2 * (count - 1)) ** 0.5


def test_fold_is_splitmix64():
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]  # reference output for seed 1234567
    keys = fold(torch.tensor([1234567]), torch.arange(3))
    assert keys.numpy().view(np.uint64).tolist() == published


def test_draws_are_uniform():
    keys = sample_keys(0, 0, torch.arange(20_000))
    for count in (2, 9, 100):
        assert abs(chi_square(draw(keys, 0, count), count)) < 4


def test_draws_are_independent_over_seed_epoch_index_and_number():
    index = torch.arange(20_000)
    one = draw(sample_keys(0, 0, index), 0, 8)
    others = {
        "seed": draw(sample_keys(1, 0, index), 0, 8),
        "epoch": draw(sample_keys(0, 1, index), 0, 8),
        "index": draw(sample_keys(0, 0, index + 1), 0, 8),
        "number": draw(sample_keys(0, 0, index), 1, 8),
    }
    for name, other in others.items():
        assert abs(chi_square(one * 8 + other, 64)) < 4, name


def test_key_depends_on_its_own_sample_only():
    index = torch.arange(100)
    assert torch.equal(sample_keys(3, 5, index)[[7, 2]], sample_keys(3, 5, torch.tensor([7, 2])))


def test_shuffled_is_a_permutation_of_its_own_for_each_epoch():
    index = torch.arange(1000)
    first, second = shuffled(0, 0, index), shuffled(0, 1, index)
    assert torch.equal(first.sort().values, index)
    assert torch.equal(first, shuffled(0, 0, index))
    assert (first == second).sum() < 10
    assert (first == index).sum() < 10


def test_order_of_samples_is_kept_when_others_leave():
    index = torch.arange(0, 1000, 3)
    among_all = [i for i in shuffled(0, 0, torch.arange(1000)).tolist() if i % 3 == 0]
    assert index[shuffled(0, 0, index)].tolist() == among_all
