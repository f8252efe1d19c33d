import json
import math

import pytest
import torch
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error

from kdbench.core.errors import ConfigError, DataError
from kdbench.core.types import Batch, DataSpec
from kdbench.metrics.calibration import Calibration, reliability

DATA = DataSpec("fake", 4, (4,), (0.0,), (1.0,))


def binary(confidences):
    """Log-probabilities of two classes that prefer class 0 with these confidences."""
    p = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([p, 1 - p], dim=1).log()


def test_reliability_of_a_small_example_by_hand():
    # Five bins: (0.6, 0.8] holds 0.7 right and 0.8 wrong; (0.8, 1] holds 0.9, 1.0 right and 0.9 wrong.
    result = reliability(binary([0.7, 0.8, 0.9, 1.0, 0.9]), torch.tensor([0, 1, 0, 0, 1]), bins=5)
    assert [row.count for row in result.bins] == [0, 0, 0, 2, 3]
    assert result.bins[3].accuracy == pytest.approx(1 / 2)
    assert result.bins[3].confidence == pytest.approx(0.75)
    assert result.bins[4].accuracy == pytest.approx(2 / 3)
    assert result.bins[4].confidence == pytest.approx(2.8 / 3)
    assert result.mce == pytest.approx(0.8 / 3)
    assert result.ece == pytest.approx(2 / 5 * 0.25 + 3 / 5 * 0.8 / 3)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    result = reliability(binary([0.75]), torch.tensor([0]), bins=4)
    assert [(row.low, row.high) for row in result.bins if row.count] == [(0.5, 0.75)]


def test_an_empty_bin_has_no_confidence_and_no_accuracy():
    first = reliability(binary([0.9]), torch.tensor([0]), bins=2).bins[0]
    assert (first.low, first.high, first.count, first.confidence, first.accuracy) == (0.0, 0.5, 0, None, None)


def test_ece_agrees_with_torchmetrics_away_from_the_edges():
    logits = torch.randn(500, 10, generator=torch.Generator().manual_seed(0))
    target = torch.arange(500) % 10
    for bins in (15, 20):
        ours = reliability(logits, target, bins)
        theirs = [
            multiclass_calibration_error(logits.softmax(1), target, 10, n_bins=bins, norm="l1"),
            multiclass_calibration_error(logits.softmax(1), target, 10, n_bins=bins, norm="max"),
        ]
        assert [ours.ece, ours.mce] == pytest.approx([value.item() for value in theirs], abs=1e-6)


def test_calibration_evaluation_pools_all_batches_and_is_ready_for_json():
    logits, target = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 4
    batches = [Batch(logits[part], target[part], part) for part in torch.arange(12).split(5)]
    result = json.loads(json.dumps(Calibration(bins=10)(nn.Identity(), batches, [], DATA)))
    assert result["ece"] == pytest.approx(reliability(logits, target, 10).ece)
    assert [row["high"] for row in result["bins"]] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert sum(row["count"] for row in result["bins"]) == 12
    assert not any(isinstance(value, float) and math.isnan(value) for row in result["bins"] for value in row.values())


def test_calibration_refuses_no_bins_and_no_samples():
    with pytest.raises(ConfigError, match=r"eval.calibration.bins=0"):
        Calibration(bins=0)
    with pytest.raises(DataError, match="no batch"):
        Calibration()(nn.Identity(), [], [], DATA)
