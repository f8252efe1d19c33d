import pytest
import torch
from criteria_toy import draw
from torch import nn

from kdbench.core.types import ModelOutput
from kdbench.criteria._connectors import pointwise_convs
from kdbench.criteria._features import FeatureCriterion, full_precision, paired, pool_alike, unit


def test_full_precision_widens_half_and_keeps_double():
    loss = full_precision(lambda x: x.sum())
    assert loss(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.float32
    assert loss(torch.ones(2, dtype=torch.float64)).dtype == torch.float64


def test_full_precision_keeps_autocast_from_matrix_products():
    product = full_precision(lambda x, *, power: (x @ x.T) ** power)
    x = draw(4, 5).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x.T).dtype == torch.bfloat16
        found = product(x, power=2)
    torch.testing.assert_close(found, (x @ x.T) ** 2, rtol=0, atol=0)


def test_unit_vectors_have_length_one_and_zero_stays_zero_without_gradient():
    vectors = torch.tensor([[3.0, -4.0], [0.0, 0.0], [0.0, 2.0]], requires_grad=True)
    result = unit(vectors)
    torch.testing.assert_close(result, torch.tensor([[0.6, -0.8], [0.0, 0.0], [0.0, 1.0]]))
    result.sum().backward()
    assert vectors.grad is not None
    assert not vectors.grad[1].any()
    assert vectors.grad[0].any()


@pytest.mark.parametrize(("own", "other", "expected"), [((4, 4), (2, 2), (2, 2)), ((4, 2), (2, 4), (2, 2))])
def test_maps_meet_at_the_smaller_side(own, other, expected):
    pooled = pool_alike(draw(1, 3, *own), draw(1, 5, *other))
    assert [maps.shape for maps in pooled] == [(1, 3, *expected), (1, 5, *expected)]


def test_equal_maps_are_not_touched():
    maps = draw(1, 3, 4, 4), draw(1, 2, 4, 4)
    assert all(after is before for after, before in zip(pool_alike(*maps), maps, strict=True))


def test_features_pair_by_position_and_the_teacher_s_are_constant():
    features = [draw(2, width, seed=width).requires_grad_() for width in range(1, 6)]
    own = ModelOutput(features[0], {"b": features[0], "a": features[1]})
    other = ModelOutput(features[0], {"x": features[2], "y": features[3], "z": features[4]})
    pairs = paired(own, other)
    assert [[side.shape[1] for side in pair] for pair in pairs] == [[1, 3], [2, 4]]
    assert [[side.requires_grad for side in pair] for pair in pairs] == [[True, False]] * 2


def test_criterion_without_options_takes_none():
    with pytest.raises(TypeError, match="temperature"):
        FeatureCriterion(temperature=1)  # pyright: ignore[reportCallIssue]


def test_pointwise_convolutions_end_without_relu():
    layers = pointwise_convs(2, 3, 4)
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.ReLU, nn.Conv2d]
