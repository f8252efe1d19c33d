from typing import Any

import numpy as np
import pytest

from kdbench.core.errors import ConfigError
from kdbench.data.catalog import describe
from kdbench.data.corruption import KINDS, corrupt
from kdbench.data.corruption_options import OPTIONS, long_tail

LABELS = np.tile(np.arange(10), 500)
CONFIGS: dict[str, dict[str, Any]] = {
    "label_noise": {"kind": "label_noise", "rate": 0.4, "seed": 0},
    "label_noise_asymmetric": {"kind": "label_noise_asymmetric", "rate": 0.4, "pairs": None, "seed": 0},
    "imbalance": {"kind": "imbalance", "factor": 10.0, "seed": 0},
}


def corrupted(kind: str, **keys: Any) -> tuple[np.ndarray, np.ndarray]:
    return corrupt(LABELS, {**CONFIGS[kind], **keys}, 10)


def test_every_kind_has_its_options():
    assert set(KINDS) == set(OPTIONS)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_kind_is_a_function_of_its_own_seed_and_leaves_its_input_alone(kind: str):
    before = LABELS.copy()
    one, again, other = corrupted(kind), corrupted(kind), corrupted(kind, seed=1)
    assert np.array_equal(LABELS, before)
    assert all(map(np.array_equal, one, again))
    assert not all(map(np.array_equal, one, other))


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.4, 1.0])
def test_symmetric_noise_makes_exactly_rate_of_each_class_wrong(rate: float):
    labels, kept = corrupted("label_noise", rate=rate)
    assert kept.all()
    assert np.bincount(LABELS[labels != LABELS], minlength=10).tolist() == [round(500 * rate)] * 10


def test_symmetric_noise_draws_every_other_class_alike():
    labels, _ = corrupted("label_noise", rate=1.0)
    counts = np.zeros((10, 10))
    np.add.at(counts, (LABELS, labels), 1)
    assert (counts.diagonal() == 0).all()
    expected = 500 / 9
    statistic = ((counts[~np.eye(10, dtype=bool)] - expected) ** 2 / expected).sum()
    assert abs(statistic - 80) < 4 * (2 * 80) ** 0.5, "chi square of 10 rows of 8 degrees of freedom"


def test_asymmetric_noise_moves_rate_of_each_class_to_the_next():
    labels, kept = corrupted("label_noise_asymmetric")
    assert kept.all()
    wrong = labels != LABELS
    assert np.bincount(LABELS[wrong]).tolist() == [200] * 10
    assert np.array_equal(labels[wrong], (LABELS[wrong] + 1) % 10)


def test_asymmetric_noise_by_pairs_leaves_the_others_clean():
    labels, _ = corrupted("label_noise_asymmetric", pairs=[[9, 1], [3, 5], [5, 3]])
    wrong = labels != LABELS
    assert np.bincount(LABELS[wrong], minlength=10).tolist() == [0, 0, 0, 200, 0, 200, 0, 0, 0, 200]
    assert {*zip(LABELS[wrong].tolist(), labels[wrong].tolist(), strict=True)} == {(9, 1), (3, 5), (5, 3)}


def test_noise_of_no_pairs_is_none():
    assert np.array_equal(corrupted("label_noise_asymmetric", pairs=[])[0], LABELS)


def test_imbalance_follows_its_formula():
    labels, kept = corrupted("imbalance", factor=100.0)
    assert np.array_equal(labels, LABELS)
    assert np.bincount(LABELS[kept]).tolist() == [round(500 * 100 ** (-c / 9)) for c in range(10)]


def test_imbalance_takes_no_more_than_there_is_and_leaves_no_class_empty():
    assert long_tail([10, 100, 50], 100.0) == [10, 10, 1]
    assert long_tail([3, 3], 1000.0) == [3, 1]
    assert long_tail([5, 0, 5], 1.0) == [5, 0, 5]
    _, kept = corrupt(np.array([0, 0, 2, 2]), CONFIGS["imbalance"], 3)
    assert kept.tolist().count(True) == 3


@pytest.mark.parametrize(
    ("corruption", "message"),
    [
        ({"kind": "label_nose"}, "did you mean 'label_noise'"),
        ({}, "dataset.corruption=None: unknown"),
        ({"kind": "label_noise"}, r"needs rate, seed; choose it with dataset/corruption=label_noise"),
        ({**CONFIGS["label_noise"], "rate": 1.01}, r"rate=1.01: must be in \[0, 1\]"),
        ({**CONFIGS["label_noise"], "rate": -0.1}, r"rate=-0.1: must be in \[0, 1\]"),
        ({**CONFIGS["imbalance"], "factor": 0.5}, "factor=0.5: must be 1 or more"),
        *(
            ({**CONFIGS["label_noise_asymmetric"], "pairs": pairs}, r"\[\[from, to\], ...\] is expected")
            for pairs in ("x", [1], [[1]], [[1, 1]], [[1, 2], [1, 3]], [[0, 10]], [[-1, 2]], [["a", "b"]])
        ),
    ],
)
def test_options_out_of_range_are_errors(corruption: Any, message: str, config_of: Any):
    with pytest.raises(ConfigError, match=message):
        describe(config_of("digits", corruption=corruption))
