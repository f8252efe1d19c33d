import pytest
import torch
from criteria_toy import DATA, FeatureRig, Pair, draw, spec
from torch import nn
from torch.nn import functional as F  # noqa: N812

from kdbench.core.errors import ConfigError
from kdbench.criteria.catkd import CATKD, class_maps


def head(width, seed=0, bias=True):
    torch.manual_seed(seed)
    return nn.Linear(width, 3, bias=bias).double()


def make(size=2, normalize=False, own=None):
    pair = object.__new__(Pair)
    criterion = CATKD(size=size, normalize=normalize)
    setup = criterion.setup

    def with_head(student, teachers, data):  # the student's classifier, which most criteria have no use for
        setup(spec([(3, 4, 4)], head=own or head(3)), teachers, data)

    criterion.setup = with_head
    Pair.__init__(pair, criterion, [(3, 4, 4)], [(5, 4, 4)], head=head(5, seed=1))
    return pair


class TestPromises(FeatureRig):
    lr = 5.0

    def make(self):
        return make()


def oracle(pair, own, other, size, normalize):
    """1x1 convolution, blocks averaged, length one per class, mean square: by loops."""
    total, step = 0.0, 4 // size
    for b in range(4):
        for c in range(3):
            sides = []
            for maps, weight in ((pair.student[0][b], own.weight[c]), (pair.teacher[0][b], other.weight[c])):
                cam = [[sum(w.item() * maps[d, i, j].item() for d, w in enumerate(weight)) for j in range(4)]
                       for i in range(4)]  # fmt: skip
                blocks = [
                    sum(cam[i * step + k][j * step + m] for k in range(step) for m in range(step)) / step**2
                    for i in range(size)
                    for j in range(size)
                ]
                length = sum(x**2 for x in blocks) ** 0.5 if normalize else 1.0
                sides.append([x / length for x in blocks])
            total += sum((s - t) ** 2 for s, t in zip(*sides, strict=True))
    return total / (4 * 3 * size**2)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("normalize", [False, True])
def test_catkd_equals_the_definition(size, normalize):
    pair = make(size, normalize)
    expected = oracle(pair, head(3), head(5, seed=1), size, normalize)
    assert pair.total().item() == pytest.approx(expected, rel=1e-6), "the teacher's classifier is copied once, in float"


def test_maps_of_one_pixel_are_the_logits_without_their_bias():
    maps, classifier = draw(2, 3, 4, 4), head(3)
    logits = F.linear(maps.mean((2, 3)), classifier.weight)
    torch.testing.assert_close(class_maps(maps, classifier.weight, size=1).flatten(1), logits)


def test_the_student_s_classifier_learns_and_is_no_part_of_the_criterion():
    own = head(3)
    pair = make(own=own)
    pair.total().backward()
    assert own.weight.grad is not None
    assert own.weight.grad.any()
    assert not list(pair.criterion.parameters())
    assert not pair.criterion.state_dict()


def test_the_student_loses_its_bias_and_keeps_its_weights():
    own = head(3)
    made, nothing = CATKD().parts(spec([(3, 4, 4)], head=own), [spec([(5, 4, 4)], head=head(5))], DATA)
    assert nothing is None
    assert made.bias is None
    torch.testing.assert_close(made.weight.double(), own.weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 1.5}])
def test_a_size_that_makes_no_sense_is_refused(options):
    with pytest.raises(ConfigError, match=r"catkd\.size="):
        CATKD(**options)


def test_networks_without_a_linear_classifier_are_refused():
    with pytest.raises(ConfigError, match="CATKD needs a network whose classifier is one linear layer"):
        CATKD().setup(spec([(3, 4, 4)]), [spec([(5, 4, 4)], head=head(5))], DATA)
