import math

import numpy as np
import pytest
import torch
from torch import nn

from kdbench.core.errors import DataError
from kdbench.core.types import Batch, DataSpec
from kdbench.metrics.evaluate import Accuracy, evaluate

CPU = torch.device("cpu")


class Table(nn.Module):
    """Answers sample i with row i of a table; the inputs are the row numbers."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.as_tensor(logits))
        self.seen = []

    def forward(self, inputs):
        self.seen.append((self.training, torch.is_inference_mode_enabled()))
        return self.logits[inputs.long().squeeze(1)]


def draw(classes, seed, samples=20):
    return 2 * torch.randn(samples, classes, generator=torch.Generator().manual_seed(seed))


def loader(target, size=8):
    """Batches of 8, 8 and 4: a mean of batch means would be wrong."""
    rows = torch.arange(len(target))
    return [Batch(part[:, None].float(), target[part], part) for part in rows.split(size)]


def labels(classes, samples=20):
    return torch.randint(classes, (samples,), generator=torch.Generator().manual_seed(9))


def probabilities(logits):
    exponentials = np.exp(np.asarray(logits, dtype=np.float64))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_accuracies_and_likelihood_equal_their_definitions():
    logits, target = draw(10, 0), labels(10)
    result = evaluate(Table(logits), loader(target), device=CPU)
    p = probabilities(logits)
    ranks = [sorted(row, reverse=True).index(row[true]) for row, true in zip(p, target.tolist(), strict=True)]
    assert set(result) == {"acc", "acc5", "nll", "ece"}
    assert result["acc"] == pytest.approx(100 * np.mean([rank < 1 for rank in ranks]))
    assert result["acc5"] == pytest.approx(100 * np.mean([rank < 5 for rank in ranks]))
    assert result["nll"] == pytest.approx(-np.mean(np.log(p[range(20), target])), rel=1e-5)


def test_agreement_and_divergence_are_from_the_mean_of_the_teachers_probabilities():
    student, *teachers = (draw(4, seed) for seed in range(3))
    result = evaluate(Table(student), loader(labels(4)), teachers=[Table(each) for each in teachers], device=CPU)
    q, p = probabilities(student), (probabilities(teachers[0]) + probabilities(teachers[1])) / 2
    assert result["agreement"] == pytest.approx(100 * np.mean(q.argmax(1) == p.argmax(1)))
    assert result["kl"] == pytest.approx(np.mean(np.sum(p * np.log(p / q), axis=1)), rel=1e-5)


def test_top_5_is_left_out_for_five_classes_or_fewer():
    assert "acc5" not in evaluate(Table(draw(5, 0)), loader(labels(5)), device=CPU)


def test_a_perfect_network_has_no_error_of_any_kind():
    target = labels(10)
    network = Table(200.0 * nn.functional.one_hot(target, 10).float())
    result = evaluate(network, loader(target), teachers=[network], device=CPU)
    assert result == {"acc": 100, "acc5": 100, "nll": 0, "ece": 0, "agreement": 100, "kl": 0}


def test_logits_between_0_and_1_are_not_taken_for_probabilities():
    # Confidence of (0.9, 0.5, 0) is 0.47, not 0.9.
    result = evaluate(Table([[0.9, 0.5, 0.0]]), loader(torch.tensor([0])), device=CPU)
    assert result["ece"] == pytest.approx(1 - math.exp(0.9) / (math.exp(0.9) + math.exp(0.5) + 1), rel=1e-5)


def test_a_diverged_network_shows_nan():
    logits = draw(10, 0)
    logits[3] = float("nan")
    assert math.isnan(evaluate(Table(logits), loader(labels(10)), device=CPU)["nll"])


def test_networks_are_run_in_eval_and_inference_mode_and_every_module_gets_its_own_mode_back():
    tables = [Table(draw(4, 0)), Table(draw(4, 1))]
    networks = [nn.Sequential(table, nn.Dropout(0.5)) for table in tables]
    networks[0][1].eval()
    evaluate(networks[0], loader(labels(4)), teachers=networks[1:], device=CPU)
    assert [[module.training for module in network.modules()] for network in networks] == [
        [True, True, False],
        [True, True, True],
    ]
    assert {seen for table in tables for seen in table.seen} == {(False, True)}


def test_modes_are_restored_after_an_error():
    network = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(RuntimeError):
        evaluate(network, loader(labels(4)), device=CPU)
    assert network.training


def test_autocast_runs_the_network_in_half_precision_and_measures_in_float32():
    network, target = nn.Linear(1, 4), labels(4)
    result = evaluate(network, loader(target), device=CPU, autocast=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(torch.arange(20.0)[:, None])
    assert logits.dtype == torch.bfloat16
    assert result["nll"] == pytest.approx(nn.functional.cross_entropy(logits.float(), target).item(), rel=1e-5)


def test_an_empty_loader_is_an_error():
    with pytest.raises(DataError, match="no batch"):
        evaluate(Table(draw(4, 0)), [], device=CPU)


def test_accuracy_evaluation_is_evaluate_on_the_network_s_device():
    network, data = Table(draw(4, 0)), DataSpec("fake", 4, (1,), (0.0,), (1.0,))
    result = Accuracy()(network, loader(labels(4)), [network], data)
    assert result == evaluate(network, loader(labels(4)), teachers=[network], device=CPU)
