import math

import pytest
import torch
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.core.taps import TapReader
from kdbench.core.types import Batch, DataSpec, ModelOutput
from kdbench.criteria import ONE
from kdbench.criteria.one import rest_of
from kdbench.models.cifar_resnet import CifarResNet
from kdbench.models.network import Network
from kdbench.models.probe import probe

DATA = DataSpec("toy", 4, (3, 8, 8), (0.5,) * 3, (0.25,) * 3)
STAGES = ["stage1", "stage2", "stage3"]
BATCH = Batch(torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4, torch.arange(6))


def made(**options):
    torch.manual_seed(0)
    body = CifarResNet(8, num_classes=4)
    student = Network(body, name="toy", num_classes=4, mean=DATA.mean, std=DATA.std, taps=body.taps, heads=["fc"])
    criterion = ONE(**options)
    criterion.setup(probe(student, STAGES, DATA), [], DATA)
    return student, criterion


def softmax(row, temperature=1.0):
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def cross_entropy(rows):
    return -sum(math.log(softmax(row)[y]) for row, y in zip(rows, BATCH.target.tolist(), strict=True)) / len(rows)


def divergence(rows, others, temperature):
    pairs = [(softmax(row, temperature), softmax(other, temperature)) for row, other in zip(rows, others, strict=True)]
    return sum(p * math.log(p / q) for a, b in pairs for p, q in zip(a, b, strict=True)) / len(rows)


@pytest.mark.parametrize(("branches", "temperature"), [(3, 3.0), (2, 1.5)])
def test_one_equals_the_definition(branches, temperature):
    student, criterion = made(branches=branches, temperature=temperature)
    student.eval()
    criterion.eval()
    with torch.no_grad():
        output = TapReader(student, STAGES)(BATCH.inputs)
        found = criterion(output, (), BATCH)
        shared = output.features["stage2"]
        logits = [output.logits.tolist(), *(branch(shared).tolist() for branch in criterion.others)]
        gates = criterion.gate(shared.mean((2, 3))).tolist()
    gates = [softmax(row) for row in gates]
    ensemble = [
        [sum(gate[b] * logits[b][sample][c] for b in range(branches)) for c in range(4)]
        for sample, gate in enumerate(gates)
    ]
    task = cross_entropy(ensemble) + sum(map(cross_entropy, logits[1:]))
    follow = temperature**2 * sum(divergence(ensemble, own, temperature) for own in logits)
    assert found["one_task"].item() == pytest.approx(task, rel=1e-5)
    assert found["one_kd"].item() == pytest.approx(follow, rel=1e-4)


def test_the_rest_of_a_network_computes_what_it_computes():
    student, _ = made()
    student.eval()
    output = TapReader(student, STAGES)(BATCH.inputs)
    rest = rest_of(student.body, "stages.1")
    torch.testing.assert_close(rest(output.features["stage2"]), output.logits)
    assert sum(p.numel() for p in rest.parameters()) == sum(
        p.numel() for part in (student.body.stages[2], student.body.fc) for p in part.parameters()
    )


def test_branches_start_from_weights_of_their_own_of_the_same_deviation():
    student, criterion = made()
    own = student.body.stages[2][0].conv1.weight
    first, second = (branch.get_submodule("stages.2.0.conv1").weight for branch in criterion.others)
    assert not torch.equal(first, own)
    assert not torch.equal(first, second)
    assert first.std().item() == pytest.approx(own.std().item(), rel=0.05)
    assert first is not own


def test_in_the_divergence_the_ensemble_is_a_constant():
    student, criterion = made()
    criterion(TapReader(student, STAGES)(BATCH.inputs), (), BATCH)["one_kd"].backward()
    assert all(p.grad is None for p in criterion.gate.parameters())  # they reach nothing but the ensemble
    assert all(p.grad is not None for p in criterion.others.parameters())


class Crooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.second(self.first(x)) + x


class Moody(Crooked):
    def forward(self, x):
        return self.second(self.first(x)) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("body", "words"), [(Crooked(), "what follows needs more"), (Moody(), "computes by its inputs")]
)
def test_a_network_that_cannot_be_cut_is_refused(body, words):
    with pytest.raises(ConfigError, match=f"ONE cannot cut {type(body).__name__} behind first: .*{words}"):
        rest_of(body, "first")


def test_one_needs_two_stages_and_two_branches():
    student, _ = made()
    with pytest.raises(ConfigError, match="has not two"):
        ONE().setup(probe(student, ["stage1"], DATA), [], DATA)
    with pytest.raises(ConfigError, match="branches"):
        ONE(branches=1)


def test_what_is_computed_is_of_the_batch_that_is_given():
    student, criterion = made()
    output = TapReader(student, STAGES)(BATCH.inputs)
    fewer = ModelOutput(output.logits[:3], {name: values[:3] for name, values in output.features.items()})
    assert criterion(fewer, (), BATCH.rows(torch.arange(3)))["one_kd"].isfinite()
