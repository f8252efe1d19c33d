import hashlib

import numpy as np
import pytest

from kdbench.data.arrays import read_digits
from kdbench.data.splits import choose

LABELS = np.repeat(np.arange(4), [10, 20, 31, 39])


@pytest.mark.parametrize("count", [0, 1, 10, 33, 99, 100])
def test_exactly_as_many_as_asked_from_each_class_its_share(count):
    chosen = choose(LABELS, count, seed=0, stream="val")
    assert chosen.sum() == count
    shares = np.bincount(LABELS[chosen], minlength=4)
    assert (np.abs(shares - np.bincount(LABELS) * count / 100) < 1).all()


def test_seed_and_stream_give_other_choices():
    one = choose(LABELS, 30, seed=0, stream="val")
    assert np.array_equal(one, choose(LABELS, 30, seed=0, stream="val"))
    assert not np.array_equal(one, choose(LABELS, 30, seed=1, stream="val"))
    assert not np.array_equal(one, choose(LABELS, 30, seed=0, stream="train_size"))


def test_every_sample_is_equally_likely():
    counts = sum(choose(LABELS, 20, seed=seed, stream="val").astype(int) for seed in range(300))
    assert (np.abs(counts - 60) < 5 * (300 * 0.2 * 0.8) ** 0.5).all()


def test_split_is_the_same_on_every_machine():
    chosen = choose(read_digits({})[0].labels, 144, seed=0, stream="val")
    assert hashlib.sha256(np.packbits(chosen).tobytes()).hexdigest()[:16] == "b521cf6b1e5ba3d1"
