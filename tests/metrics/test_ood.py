import json

import pytest
import torch
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec
from kdbench.metrics.base import Samples
from kdbench.metrics.ood import OOD, auroc, fpr_at, scores

DATA = DataSpec("digits", 4, (4,), (0.0,), (1.0,))


def drawn(count, seed):
    return torch.randint(8, (count,), generator=torch.Generator().manual_seed(seed)).double()


def batches(inputs, size=5):
    target = torch.zeros(len(inputs), dtype=torch.long)
    return [Batch(inputs[part], target[part], part) for part in torch.arange(len(inputs)).split(size)]


def test_auroc_counts_pairs_and_half_of_the_ties():
    inside, outside = drawn(30, 0), drawn(20, 1)
    pairs = [1.0 if s > o else 0.5 if s == o else 0.0 for s in inside for o in outside]
    assert auroc(inside, outside) == pytest.approx(sum(pairs) / len(pairs))
    assert auroc(inside + 10, outside) == 1
    assert auroc(inside - 10, outside) == 0
    assert auroc(inside, inside) == pytest.approx(0.5)


def test_false_positives_are_counted_where_95_percent_pass():
    inside = torch.arange(100.0)  # 95 of them are at least 5
    assert fpr_at(inside, torch.tensor([4.0, 5.0, 6.0, 200.0])) == 0.75


def test_scores_are_those_of_their_papers_and_keep_sure_samples_apart():
    found = scores(torch.tensor([[1.0, 0.0, -2.0], [100.0, 0.0, 0.0], [200.0, 0.0, 0.0]]))
    p = torch.tensor([1.0, 0.0, -2.0]).softmax(0).max()
    assert found["max_softmax"][0].sigmoid().item() == pytest.approx(p.item(), rel=1e-6)
    assert found["energy"][0].item() == pytest.approx(torch.tensor([1.0, 0.0, -2.0]).exp().sum().log().item(), rel=1e-6)
    assert all(value.isfinite().all() for value in found.values())
    assert found["max_softmax"][2] > found["max_softmax"][1]


def test_a_network_that_is_sure_of_its_own_samples_alone_tells_them_apart():
    known, unknown = 9 * torch.eye(4).repeat(3, 1), torch.zeros(7, 4)
    result = json.loads(json.dumps(OOD(dataset="fake")(nn.Identity(), batches(known), [], DATA, batches(unknown))))
    assert (result["inside"], result["outside"]) == (12, 7)
    assert result["scores"] == [
        {"score": "max_softmax", "auroc": 1.0, "fpr95": 0.0},
        {"score": "energy", "auroc": 1.0, "fpr95": 0.0},
    ]


def test_noise_is_uniform_as_many_as_the_samples_and_the_same_in_any_batches():
    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, inputs):
            self.seen.append(inputs)
            return inputs

    seen = []
    for size, seed in ((5, 0), (12, 0), (12, 1)):
        network = Recorder()
        OOD(seed=seed)(network, batches(torch.zeros(12, 400), size), [], DATA)
        seen.append(torch.cat(network.seen)[12:])
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert (seen[0].min() >= 0) & (seen[0].max() < 1)
    assert seen[0].mean().item() == pytest.approx(0.5, abs=0.02)
    assert seen[0].var().item() == pytest.approx(1 / 12, abs=0.005)


def test_another_dataset_is_asked_for_and_the_own_one_refused():
    assert OOD().also_reads == ()
    assert OOD(dataset="fake", root="x").also_reads == (Samples("test", "fake", "x"),)
    OOD(dataset="fake").check(nn.Identity(), [], DATA)
    with pytest.raises(ConfigError, match=r"eval\.ood\.dataset=digits: the network was trained on it"):
        OOD(dataset="digits").check(nn.Identity(), [], DATA)
