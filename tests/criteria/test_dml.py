import math

import pytest
import torch
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria import DML

DATA = DataSpec("toy", 3, (4,), (0.0,), (1.0,))
BATCH = Batch(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double(), torch.arange(5) % 3,
              torch.arange(5))  # fmt: skip


def network(seed):
    torch.manual_seed(seed)
    return nn.Linear(4, 3).double()


def make(peer, **options):
    criterion = DML(**options)
    criterion.setup(NetworkSpec("student", 3), [NetworkSpec("peer", 3, network=peer)], DATA)
    return criterion


def terms(criterion, student):
    return criterion(ModelOutput(student(BATCH.inputs), {}), (), BATCH)


def softmax(row, temperature):
    total = sum(math.exp(value / temperature) for value in row)
    return [math.exp(value / temperature) / total for value in row]


def divergence(first, second, temperature):
    rows = [(softmax(a, temperature), softmax(b, temperature)) for a, b in zip(first, second, strict=True)]
    return temperature**2 * sum(p * math.log(p / q) for a, b in rows for p, q in zip(a, b, strict=True)) / len(rows)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_dml_equals_the_definition(temperature):
    student, peer = network(0), network(1)
    own, other = (net(BATCH.inputs).tolist() for net in (student, peer))
    found = terms(make(peer, temperature=temperature), student)
    assert found["dml"].item() == pytest.approx(divergence(other, own, temperature), rel=1e-9)
    assert found["peer_dml"].item() == pytest.approx(divergence(own, other, temperature), rel=1e-9)
    task = -sum(math.log(softmax(row, 1.0)[y]) for row, y in zip(other, BATCH.target.tolist(), strict=True)) / 5
    assert found["peer_task"].item() == pytest.approx(task, rel=1e-6)


@pytest.mark.parametrize(("term", "reached"), [("dml", "student"), ("peer_dml", "peer"), ("peer_task", "peer")])
def test_the_other_s_prediction_is_a_constant_in_each_loss(term, reached):
    student, criterion = network(0), make(network(1))
    terms(criterion, student)[term].backward()
    for name, net in (("student", student), ("peer", criterion.peer)):
        assert (net.weight.grad is not None) == (name == reached)


def test_dml_gradient_equals_finite_differences():
    criterion = make(network(1))
    assert torch.autograd.gradcheck(
        lambda logits: criterion(ModelOutput(logits, {}), (), BATCH)["dml"], torch.randn(5, 3).double().requires_grad_()
    )


def test_the_peer_is_a_copy_that_is_trained_and_saved_and_leaves_the_network_above_alone():
    above = network(1).requires_grad_(False)
    before = above.weight.clone()
    criterion = make(above)
    optimizer = torch.optim.SGD(criterion.parameters(), lr=0.5)
    losses = []
    for _ in range(5):
        loss = terms(criterion, network(0))["peer_task"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert torch.equal(above.weight, before)
    assert criterion.state_dict().keys() == {"peer.weight", "peer.bias"}


def test_dml_refuses_several_peers_and_a_wrong_temperature():
    spec = NetworkSpec("peer", 3, network=network(1))
    with pytest.raises(ConfigError, match="DML learns from one teacher, here are 2"):
        DML().setup(NetworkSpec("student", 3), [spec, spec], DATA)
    with pytest.raises(ConfigError, match=r"dml\.temperature=0: a number"):
        DML(temperature=0)
