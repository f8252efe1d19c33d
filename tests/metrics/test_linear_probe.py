import json

import numpy as np
import pytest
import torch
from torch import nn

from kdbench.core.errors import ConfigError, DataError
from kdbench.core.types import Batch, DataSpec
from kdbench.metrics.base import Samples
from kdbench.metrics.linear_probe import LinearProbe, ridge

DATA = DataSpec("fake", 3, (4,), (0.0,), (1.0,))


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.pooled, self.dropout = nn.Identity(), nn.Dropout(0.5)

    def forward(self, inputs):
        return self.pooled(self.dropout(inputs))


def clusters(seed, samples=30):
    target = torch.arange(samples) % 3
    noise = 0.1 * torch.randn(samples, 4, generator=torch.Generator().manual_seed(seed))
    return noise + 5 * torch.eye(4)[target] + 100, target


def batches(inputs, target, size=8):
    return [Batch(inputs[part], target[part], part) for part in torch.arange(len(target)).split(size)]


def test_ridge_is_the_least_squares_of_an_augmented_system():
    generator = torch.Generator().manual_seed(0)
    features = 3 * torch.randn(20, 4, generator=generator, dtype=torch.float64) + 5
    target = torch.arange(20) % 3
    weight, bias = ridge(features, target, penalty=0.1)

    x = features.numpy()
    standard = (x - x.mean(0)) / x.std(0)
    rows = np.vstack([np.hstack([standard, np.ones((20, 1))]), np.sqrt(0.1 * 20) * np.eye(5)[:4]])
    wanted = np.vstack([np.eye(3)[target.numpy()], np.zeros((4, 3))])
    solution = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    expected = np.hstack([standard, np.ones((20, 1))]) @ solution
    np.testing.assert_allclose((features @ weight.T + bias).numpy(), expected, atol=1e-9)


def test_a_feature_that_never_changes_gets_no_weight():
    features, target = clusters(0)
    features = torch.cat([features, torch.full((30, 1), 7.0)], dim=1).double()
    weight, bias = ridge(features, target, penalty=0.001)
    assert weight[:, -1].tolist() == [0, 0, 0]
    assert weight.isfinite().all()
    assert bias.isfinite().all()


def test_the_probe_is_fitted_on_one_loader_and_measured_on_the_other():
    inputs, target = clusters(1)
    train, swapped = batches(*clusters(0)), batches(inputs, (target + 1) % 3)
    result = json.loads(json.dumps(LinearProbe()(Body(), batches(inputs, target), [], DATA, train)))
    assert result == {
        "acc": 100.0,
        "train_acc": 100.0,
        "samples": 30,
        "train_samples": 30,
        "features": 4,
        "classes": 3,
    }
    assert LinearProbe()(Body(), swapped, [], DATA, train)["acc"] == 0
    other = LinearProbe(dataset="fashion_mnist")(Body(), batches(inputs, target), [], DATA, train, swapped)
    assert (other["acc"], other["train_acc"]) == (0, 100)


def test_it_reads_the_train_split_and_for_another_dataset_its_test_split_too():
    assert LinearProbe().also_reads == (Samples("train"),)
    assert LinearProbe(dataset="svhn", root="x").also_reads == (
        Samples("train", "svhn", "x"),
        Samples("test", "svhn", "x"),
    )


def test_the_network_is_run_in_eval_mode_and_left_without_hooks():
    network = Body()
    network.pooled.eval()
    LinearProbe()(network, batches(*clusters(1)), [], DATA, batches(*clusters(0)))
    assert [module.training for module in network.modules()] == [True, False, True]
    assert not network.pooled._forward_hooks


def test_what_cannot_be_probed_is_refused():
    with pytest.raises(ConfigError, match=r"penalty=0"):
        LinearProbe(penalty=0)
    with pytest.raises(ConfigError, match=r"eval\.linear_probe\.dataset"):
        LinearProbe(root="x")
    with pytest.raises(ConfigError, match=r"eval.linear_probe.tap: .*did you mean 'pooled'"):
        LinearProbe(tap="poold").check(Body(), [], DATA)
    inputs, target = clusters(0)
    with pytest.raises(DataError, match="one class"):
        LinearProbe()(Body(), batches(inputs, target), [], DATA, batches(inputs, 0 * target))
