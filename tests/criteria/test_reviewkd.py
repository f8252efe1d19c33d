import math

import numpy as np
import pytest
import torch
from criteria_toy import DATA, FeatureRig, Pair, draw, spec

from kdbench.core.errors import ConfigError
from kdbench.criteria.reviewkd import AttentionFusion, ReviewKD, hcl_loss


class TestPromises(FeatureRig):
    plain = False

    def make(self):
        return Pair(ReviewKD(), [(3, 4, 4), (4, 2, 2), (6,)], [(2, 4, 4), (5, 4, 4), (3,)])


def oracle_conv(maps, conv):
    """Convolution with zero padding that keeps the size."""
    weight = conv.weight.detach().numpy()
    size, _, height, width = maps.shape
    pad = weight.shape[2] // 2
    result = np.zeros((size, len(weight), height, width))
    for b, o, h, w in np.ndindex(result.shape):
        result[b, o, h, w] = 0.0 if conv.bias is None else conv.bias[o].item()
        for c, i, j in np.ndindex(weight.shape[1:]):
            y, x = h + i - pad, w + j - pad
            if 0 <= y < height and 0 <= x < width:
                result[b, o, h, w] += weight[o, c, i, j] * maps[b, c, y, x]
    return result


def oracle_norm(maps, eps=1e-5):
    result = np.empty_like(maps)
    for c in range(maps.shape[1]):
        values = maps[:, c].ravel()
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        result[:, c] = (maps[:, c] - mean) / math.sqrt(variance + eps)
    return result


def oracle_nearest(maps, height, width):
    result = np.empty((*maps.shape[:2], height, width))
    for h, w in np.ndindex(height, width):
        result[:, :, h, w] = maps[:, :, h * maps.shape[2] // height, w * maps.shape[3] // width]
    return result


def oracle_pool(maps, side):
    step = maps.shape[2] // side
    result = np.empty((*maps.shape[:2], side, side))
    for h, w in np.ndindex(side, side):
        result[:, :, h, w] = maps[:, :, h * step : (h + 1) * step, w * step : (w + 1) * step].mean(axis=(2, 3))
    return result


def oracle_hcl(student, teacher):
    loss, weight, total = ((student - teacher) ** 2).mean(), 1.0, 1.0
    for side in (4, 2, 1):
        if side >= student.shape[2]:
            continue
        weight /= 2
        loss += weight * ((oracle_pool(student, side) - oracle_pool(teacher, side)) ** 2).mean()
        total += weight
    return loss / total


def test_reviewkd_equals_the_definition():
    pair = Pair(ReviewKD(max_mid=4), [(3, 4, 4), (6, 2, 2), (5,)], [(2, 2, 2), (3, 4, 4), (4,)])
    carried, total = None, 0.0
    for level in (2, 1, 0):
        fusion = pair.criterion.fusions[level]
        own, other = (side[level].numpy() for side in (pair.student, pair.teacher))
        if level == 2:
            own, other = own[:, :, None, None], other[:, :, None, None]
        x = oracle_norm(oracle_conv(own, fusion.inward[0]))
        if carried is not None:
            carried = oracle_nearest(carried, *x.shape[2:])
            share = 1 / (1 + np.exp(-oracle_conv(np.concatenate([x, carried], axis=1), fusion.attention)))
            x = share[:, :1] * x + share[:, 1:] * carried
        carried = oracle_nearest(x, *other.shape[2:])
        total += oracle_hcl(oracle_norm(oracle_conv(carried, fusion.outward[0])), other)
    assert pair.terms()["reviewkd"].item() == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize(
    ("side", "weights"),
    [(8, {8: 1, 4: 0.5, 2: 0.25, 1: 0.125}), (4, {4: 1, 2: 0.5, 1: 0.25}), (2, {2: 1, 1: 0.5}), (1, {1: 1})],
)
def test_hcl_halves_the_weight_at_each_size_that_it_uses(side, weights):
    student, teacher = draw(2, 3, side, side), draw(2, 3, side, side, seed=1)
    errors = {n: ((oracle_pool(student.numpy(), n) - oracle_pool(teacher.numpy(), n)) ** 2).mean() for n in weights}
    expected = sum(weights[n] * errors[n] for n in weights) / sum(weights.values())
    assert hcl_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_hcl_of_a_three_pixel_map_uses_full_size_two_and_one():
    student = torch.ones(1, 1, 3, 3)
    student[..., 0, 0] = 10.0
    teacher = torch.ones(1, 1, 3, 3)
    # Overlapping windows of 2x2 pixels, one of which holds the difference.
    errors = 81 / 9, (9 / 4) ** 2 / 4, (9 / 9) ** 2
    expected = (errors[0] + errors[1] / 2 + errors[2] / 4) / 1.75
    assert hcl_loss(student, teacher).item() == pytest.approx(expected, rel=1e-6)


def test_hcl_is_zero_for_equal_maps():
    maps = draw(2, 3, 8, 8)
    assert hcl_loss(maps, maps).item() == 0.0


def test_carried_channels_are_those_of_the_deepest_level_up_to_the_limit():
    def carried(limit):
        pair = Pair(ReviewKD(max_mid=limit), [(3, 4, 4), (6,)], [(2, 4, 4), (3,)])
        return [fusion.inward[0].out_channels for fusion in pair.criterion.fusions]

    assert carried(512) == [6, 6]
    assert carried(4) == [4, 4]


def test_only_the_attention_has_a_bias_and_the_deepest_level_has_none_of_it():
    shallow, deepest = (AttentionFusion((3, 4, 4), (2, 4, 4), 5, deepest=deep) for deep in (False, True))
    assert deepest.attention is None
    assert shallow.attention is not None
    assert shallow.attention.bias is not None
    assert shallow.inward[0].bias is shallow.outward[0].bias is None
    assert shallow.inward[0].weight.abs().max() <= math.sqrt(6 / (2 * 3))  # Kaiming uniform, a = 1, fan-in 3


def test_deep_levels_reach_the_shallow_ones():
    pair = Pair(ReviewKD(), [(3, 4, 4), (6,)], [(2, 4, 4), (3,)])
    pair.criterion.fusions[1].outward.requires_grad_(False)
    deep = pair.student[1].requires_grad_()
    fusion = pair.criterion.fusions
    _, carried = fusion[1](deep[..., None, None], None)
    seen, _ = fusion[0](pair.student[0], carried)
    hcl_loss(seen, pair.teacher[0]).backward()
    assert deep.grad is not None
    assert deep.grad.any()


def test_reviewkd_refuses_unequal_levels_sequences_and_a_limit_of_zero():
    with pytest.raises(ConfigError, match="ReviewKD pairs level by level, but toy gives 1 taps and toy 2"):
        ReviewKD().setup(spec([(3,)]), [spec([(3,), (4,)])], DATA)
    with pytest.raises(
        ConfigError, match=r"ReviewKD reads maps and vectors; a tap in method.taps has the shape \(3, 7\)"
    ):
        ReviewKD().setup(spec([(3, 7)]), [spec([(3,)])], DATA)
    with pytest.raises(ConfigError, match=r"reviewkd.max_mid=0: a number"):
        ReviewKD(max_mid=0)
