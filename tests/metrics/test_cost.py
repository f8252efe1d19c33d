import json

import pytest
import torch
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import DataSpec
from kdbench.metrics.cost import Latency, count_bytes, count_macs, count_parameters, latency

DATA = DataSpec("fake", 10, (3, 6, 6), (0.5,) * 3, (0.25,) * 3)


def small():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, 10))


class Recorder(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, inputs):
        self.calls.append((tuple(inputs.shape), self.training, torch.is_grad_enabled()))
        return inputs


def test_macs_are_those_of_convolution_and_linear_layers_by_hand():
    assert count_macs(small(), (3, 6, 6)) == 4 * 4 * 8 * 3 * 3 * 3 + 8 * 4 * 4 * 10


def test_macs_of_a_depthwise_convolution_count_one_channel_each():
    assert count_macs(nn.Conv2d(8, 8, 3, groups=8, bias=False), (8, 5, 5)) == 3 * 3 * 8 * 3 * 3


def test_macs_are_of_one_sample_in_eval_mode_without_gradient():
    network = Recorder()
    count_macs(network, (3, 6, 6))
    assert network.calls == [((1, 3, 6, 6), False, False)]


def test_parameters_include_frozen_ones_and_count_shared_ones_once():
    network = small()
    network.requires_grad_(False)
    assert count_parameters(network) == (3 * 9 * 8 + 8) + (8 + 8) + (128 * 10 + 10)
    linear = nn.Linear(3, 3)
    assert count_parameters(nn.Sequential(linear, linear)) == 12


def test_bytes_are_those_of_parameters_and_buffers_each_in_its_type():
    network = nn.Sequential(nn.Linear(3, 2).half(), nn.BatchNorm1d(2))
    assert count_bytes(network) == (3 * 2 + 2) * 2 + (2 + 2 + 2 + 2) * 4 + 8  # the counter of batches is int64


def test_counting_leaves_mode_statistics_and_gradients_alone():
    network = small()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count_macs(network, (3, 6, 6))
    latency(network, (3, 6, 6), repeats=1)
    assert all(module.training for module in network.modules())
    torch.testing.assert_close(dict(network.state_dict()), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_latency_times_each_batch_size_after_a_warm_up(monkeypatch):
    ticks = iter([0, 9, 0, 9, 0, 0.001, 0, 0.004, 0, 0.002] * 2)  # two slow calls, then 1, 4 and 2 ms
    monkeypatch.setattr("kdbench.metrics.cost.time.perf_counter", lambda: next(ticks))
    network = Recorder()
    assert latency(network, (3, 6, 6), batch_sizes=(1, 4), repeats=3) == pytest.approx({1: 2.0, 4: 2.0})
    assert network.calls == [((1, 3, 6, 6), False, False)] * 5 + [((4, 3, 6, 6), False, False)] * 5


def test_latency_evaluation_is_ready_for_json():
    result = json.loads(json.dumps(Latency(batch_sizes=(1, 2), repeats=2)(small(), [], [], DATA)))
    assert result["parameters"] == count_parameters(small())
    assert result["bytes"] == count_bytes(small())
    assert result["macs"] == count_macs(small(), (3, 6, 6))
    assert result["latency_ms"].keys() == {"1", "2"}
    assert min(result["latency_ms"].values()) > 0
    assert result["device"] == "cpu"
    assert result["threads"] == torch.get_num_threads()


@pytest.mark.parametrize("options", [{"repeats": 0}, {"batch_sizes": (1, 0)}])
def test_latency_refuses_numbers_below_one(options):
    with pytest.raises(ConfigError, match="must be at least 1"):
        Latency(**options)
