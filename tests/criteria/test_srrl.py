import numpy as np
import pytest
import torch
from criteria_toy import DATA, FeatureRig, Pair, spec
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.criteria.srrl import SRRL


def head(width=5, bias=True):
    torch.manual_seed(3)
    return nn.Linear(width, 3, bias=bias)


class TestPromises(FeatureRig):
    plain = False

    def make(self):
        return Pair(SRRL(), [(3,)], [(5,)], head=head())


def test_srrl_equals_the_definition():
    pair = Pair(SRRL(), [(3,)], [(5,)], head=head(), size=6)
    linear, norm, _ = pair.criterion.connector
    weight = linear.weight.detach().numpy()
    judge, offset = (np.asarray(p.detach().double()) for p in (head().weight, head().bias))
    own, other, logits = (np.asarray(x) for x in (pair.student[0], pair.teacher[0], pair.logits))
    mapped = [[sum(w * x for w, x in zip(row, point, strict=True)) for row in weight] for point in own]
    for d in range(5):
        column = [row[d] for row in mapped]
        mean = sum(column) / 6
        deviation = (sum((value - mean) ** 2 for value in column) / 6 + norm.eps) ** 0.5
        for row in mapped:
            row[d] = max((row[d] - mean) / deviation, 0.0)
    feature = sum((mapped[b][d] - other[b][d]) ** 2 for b in range(6) for d in range(5)) / 30
    judged = [[sum(judge[c][d] * row[d] for d in range(5)) + offset[c] for c in range(3)] for row in mapped]
    logit = sum((judged[b][c] - logits[b][c]) ** 2 for b in range(6) for c in range(3)) / 18
    terms = pair.terms()
    assert terms["srrl_feature"].item() == pytest.approx(feature, rel=1e-9)
    assert terms["srrl_logit"].item() == pytest.approx(logit, rel=1e-9)


def test_srrl_is_zero_for_a_perfect_map():
    classifier = head()
    pair = Pair(SRRL(), [(5,)], [(5,)], head=classifier)
    pair.criterion.connector = nn.Identity()
    pair.logits = classifier.double()(pair.teacher[0]).detach()
    assert pair.total(*pair.teacher).item() == pytest.approx(0.0, abs=1e-20)


def test_classifier_is_a_copy_that_is_neither_trained_nor_saved():
    classifier, criterion = head(), SRRL()
    criterion.setup(spec([(3,)]), [spec([(5,)], head=classifier)], DATA)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    buffers = dict(criterion.named_buffers())
    torch.testing.assert_close([buffers["weight"], buffers["bias"]], [head().weight.detach(), head().bias.detach()])
    assert all(name.startswith("connector") for name, _ in criterion.named_parameters())
    assert all(name.startswith("connector") for name in criterion.state_dict())


def test_a_classifier_without_bias_will_do():
    pair = Pair(SRRL(), [(3,)], [(5,)], head=head(bias=False))
    assert not pair.criterion.bias.any()
    assert pair.total().isfinite()


@pytest.mark.parametrize("classifier", [None, head(width=4)])
def test_srrl_refuses_a_teacher_without_a_fitting_classifier(classifier):
    with pytest.raises(ConfigError, match="SRRL needs a network whose classifier is one linear layer on its tap; toy"):
        SRRL().setup(spec([(3,)]), [spec([(5,)], head=classifier)], DATA)
