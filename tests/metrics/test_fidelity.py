import math

import pytest
import torch
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec, Tap
from kdbench.metrics.fidelity import Fidelity, agreement, kl_divergence

DATA = DataSpec("fake", 3, (3,), (0.0,), (1.0,))
STUDENT, TEACHER = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[3.0, 0.0, -1.0]])


class Answer(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, inputs):
        return self.logits.expand(len(inputs), -1)


def batches(*sizes):
    return [Batch(torch.zeros(size, 3), torch.zeros(size, dtype=torch.long), torch.arange(size)) for size in sizes]


def test_divergences_of_the_three_class_example_have_the_known_values():
    p, q = TEACHER.log_softmax(1), STUDENT.log_softmax(1)
    assert kl_divergence(p, q).item() == pytest.approx(0.214201, rel=5e-6)
    assert kl_divergence(q, p).item() == pytest.approx(0.327796, rel=5e-6)


def test_divergence_is_finite_at_extreme_logits():
    p, q = (200 * torch.randn(9, 50, generator=torch.Generator().manual_seed(k)).log_softmax(1) for k in range(2))
    assert kl_divergence(p.log_softmax(1), q.log_softmax(1)).isfinite().all()


def test_agreement_compares_the_preferred_classes():
    first, second = torch.eye(3)[[0, 1, 2]], torch.eye(3)[[0, 2, 2]]
    assert agreement(first, second).tolist() == [1.0, 0.0, 1.0]


def test_fidelity_reports_agreement_and_both_divergences():
    result = Fidelity()(Answer(STUDENT), batches(2, 1), [Answer(TEACHER)], DATA)
    assert result.pop("cka_minibatch_unbiased") == []
    assert result == pytest.approx({"agreement": 100, "kl": 0.214201, "reverse_kl": 0.327796}, rel=5e-6)


def test_fidelity_to_several_teachers_is_to_the_mean_of_their_probabilities():
    teachers = [Answer(torch.tensor([[math.log(a), math.log(1 - a)]])) for a in (0.9, 0.2)]  # their mean is 0.55, 0.45
    result = Fidelity()(Answer(torch.tensor([[0.0, 0.0]])), batches(1), teachers, DATA)
    assert result["agreement"] == 100
    assert result["kl"] == pytest.approx(0.55 * math.log(1.1) + 0.45 * math.log(0.9), rel=1e-4)


def tapped(features, logits):
    """A network whose taps ``wide``, ``deep`` and ``logits`` answer with ``features[name](inputs)``."""

    class Tapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.deep, self.out = nn.Identity(), nn.Identity(), nn.Identity()
            self.taps = {name: Tap("out" if name == "logits" else name) for name in (*features, "logits")}

        def forward(self, inputs):
            for name, function in features.items():
                getattr(self, name)(function(inputs))
            return self.out(logits.expand(len(inputs), -1))

    return Tapped()


def test_fidelity_compares_features_at_the_taps_that_both_networks_have():
    inputs = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    loader = [Batch(inputs[part], torch.zeros(len(part), dtype=torch.long), part) for part in torch.arange(12).split(6)]
    student = tapped({"wide": lambda x: 3 * x.flip(1) + 1, "deep": lambda x: x.square()}, STUDENT)
    teachers = [
        tapped({"deep": lambda x: x.square()}, TEACHER),
        tapped({"wide": lambda x: x.square(), "deep": lambda x: x.square()}, TEACHER),
    ]
    rows = Fidelity()(student, loader, teachers, DATA)["cka_minibatch_unbiased"]
    assert [(row["teacher"], row["tap"]) for row in rows] == [(0, "deep"), (1, "wide"), (1, "deep")]
    assert [row["cka"] for row in rows[::2]] == pytest.approx([1, 1], abs=1e-5)
    assert rows[1]["cka"] < 0.5
    assert not any(module._forward_hooks for network in (student, *teachers) for module in network.modules())


def test_fidelity_without_a_teacher_is_refused_before_anything_is_measured():
    with pytest.raises(ConfigError, match="trained without a teacher"):
        Fidelity().check(Answer(STUDENT), [], DATA)
