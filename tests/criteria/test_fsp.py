import pytest
import torch
from criteria_toy import DATA, FeatureRig, Pair, draw, spec

from kdbench.core.errors import ConfigError
from kdbench.criteria.fsp import FSP, flow

SHAPES = [(3, 4, 4), (4, 2, 2), (5, 2, 2)]


class TestPromises(FeatureRig):
    def make(self):
        return Pair(FSP(), SHAPES, SHAPES)


def halved(maps):
    """Means of 2x2 blocks, `[C][H / 2][W / 2]`."""
    channels, height, width = maps.shape
    return [[[sum(maps[c, 2 * h + i, 2 * w + j].item() for i in (0, 1) for j in (0, 1)) / 4 for w in range(width // 2)]
             for h in range(height // 2)] for c in range(channels)]  # fmt: skip


def oracle_flow(first, second):
    pixels = [(h, w) for h in range(len(first[0])) for w in range(len(first[0][0]))]
    return [[sum(p[h][w] * q[h][w] for h, w in pixels) / len(pixels) for q in second] for p in first]


def test_fsp_equals_the_definition():
    pair = Pair(FSP(), SHAPES, SHAPES)
    total, size = 0.0, 4
    for b in range(size):
        matrices = []
        for side in (pair.student, pair.teacher):
            stem, one, two = (maps[b] for maps in side)
            matrices.append([oracle_flow(halved(stem), one.tolist()), oracle_flow(one.tolist(), two.tolist())])
        for own, other in zip(*matrices, strict=True):
            squares = [(s - t) ** 2 for x, y in zip(own, other, strict=True) for s, t in zip(x, y, strict=True)]
            total += sum(squares) / len(squares) / size
    assert pair.total().item() == pytest.approx(total, rel=1e-9)


def test_fsp_of_a_copy_is_zero_and_sides_may_differ():
    pair = Pair(FSP(), SHAPES, SHAPES)
    assert pair.total(*pair.teacher).item() == 0.0
    assert Pair(FSP(), SHAPES, [(3, 8, 8), (4, 4, 4), (5, 2, 2)]).total().isfinite()


def test_the_order_of_pixels_is_lost_and_that_of_channels_is_not():
    first, second = draw(2, 3, 4, 4), draw(2, 4, 4, 4, seed=1)
    torch.testing.assert_close(flow(first.flip(3), second.flip(3)), flow(first, second))
    assert not torch.allclose(flow(first.flip(1), second), flow(first, second))


def test_unequal_channels_are_refused_by_name():
    with pytest.raises(ConfigError, match="FSP needs equal channels at every tap, but small has 4 where large has 8"):
        FSP().setup(spec([(3, 4, 4), (4, 2, 2)], "small"), [spec([(3, 4, 4), (8, 2, 2)], "large")], DATA)


def test_one_tap_is_refused():
    with pytest.raises(ConfigError, match="FSP relates consecutive taps"):
        FSP().setup(spec([(3, 4, 4)]), [spec([(3, 4, 4)])], DATA)
