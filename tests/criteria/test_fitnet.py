import pytest
import torch
from criteria_toy import DATA, FeatureRig, Pair, draw, spec
from torch import nn

from kdbench.core.errors import ConfigError
from kdbench.criteria._connectors import resizing_conv
from kdbench.criteria.fitnet import FitNet


class TestPromises(FeatureRig):
    plain = False

    def make(self):
        return Pair(FitNet(), [(3, 4, 4)], [(2, 2, 2)])


def oracle(maps, connector, teacher):
    """1x1 convolution, BatchNorm by batch statistics, ReLU, mean squared error: by loops."""
    conv, norm, _ = connector
    size, out, height, width = teacher.shape
    total = 0.0
    for o in range(out):
        kernel, bias = conv.weight[o, :, 0, 0].tolist(), conv.bias[o].item()
        places = [(b, h, w) for b in range(size) for h in range(height) for w in range(width)]
        values = [sum(k * maps[b, c, h, w].item() for c, k in enumerate(kernel)) + bias for b, h, w in places]
        mean = sum(values) / len(values)
        deviation = (sum((value - mean) ** 2 for value in values) / len(values) + norm.eps) ** 0.5
        for value, (b, h, w) in zip(values, places, strict=True):
            total += (max((value - mean) / deviation, 0.0) - teacher[b, o, h, w].item()) ** 2
    return total / teacher.numel()


def test_fitnet_equals_the_definition():
    pair = Pair(FitNet(), [(3, 2, 3)], [(2, 2, 3)])
    connector = pair.criterion.connectors[0]
    assert pair.terms()["fitnet"].item() == pytest.approx(oracle(pair.student[0], connector, pair.teacher[0]), rel=1e-9)


def test_fitnet_of_a_perfect_regressor_is_zero():
    pair = Pair(FitNet(), [(3, 2, 2)], [(3, 2, 2)])
    pair.criterion.connectors[0] = nn.Identity()
    assert pair.terms(*pair.teacher)["fitnet"].item() == 0.0


@pytest.mark.parametrize(
    ("source", "target", "kind", "kernel", "stride"),
    [
        ((3, 8, 8), (5, 4, 4), nn.Conv2d, (3, 3), (2, 2)),
        ((3, 4, 4), (5, 8, 8), nn.ConvTranspose2d, (4, 4), (2, 2)),
        ((3, 8, 8), (5, 8, 8), nn.Conv2d, (1, 1), (1, 1)),
        ((3, 8, 8), (5, 6, 6), nn.Conv2d, (3, 3), (1, 1)),
        ((3, 8, 6), (5, 7, 4), nn.Conv2d, (2, 3), (1, 1)),
    ],
)
def test_convolution_brings_the_map_to_the_teacher_s_size(source, target, kind, kernel, stride):
    conv = resizing_conv(source, target)
    assert isinstance(conv, kind)
    assert (conv.kernel_size, conv.stride) == (kernel, stride)
    assert conv.bias is not None
    assert conv(draw(2, *source).float()).shape == (2, *target)


def test_regressor_is_trained_after_batch_norm_and_relu():
    pair = Pair(FitNet(), [(3, 2, 2)], [(2, 2, 2)])
    (regressor,) = pair.criterion.connectors
    assert [type(layer) for layer in regressor] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert (regressor(pair.student[0]) >= 0).all()


def test_fitnet_adds_its_taps():
    pair = Pair(FitNet(), [(3, 2, 2)] * 2, [(2, 2, 2)] * 2)
    whole = pair.terms()["fitnet"]
    parts = [
        torch.nn.functional.mse_loss(connector(own), other)
        for connector, own, other in zip(pair.criterion.connectors, pair.student, pair.teacher, strict=True)
    ]
    torch.testing.assert_close(whole, parts[0] + parts[1])


def test_fitnet_refuses_a_teacher_map_that_no_convolution_reaches():
    with pytest.raises(ConfigError, match=r"student's 4x4 map to the teacher's 6x6, which is larger but not twice"):
        FitNet().setup(spec([(3, 4, 4)]), [spec([(3, 6, 6)])], DATA)
