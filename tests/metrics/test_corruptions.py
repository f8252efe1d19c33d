import colorsys
import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from kdbench.core.errors import ConfigError, DataError
from kdbench.core.types import Batch, DataSpec
from kdbench.metrics.common_corruptions import KINDS, CommonCorruptions, corrupt

DATA = DataSpec("fake", 2, (3, 12, 12), (0.0,) * 3, (1.0,) * 3)
BIT = 1.01 / 255  # rounding down to 8 bits


def photos(count=4, size=12, channels=3):
    """Smooth images with noise on them, of 8 bits."""
    ramp = torch.linspace(0.1, 0.8, size)
    noise = torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))
    return (255 * (0.6 * ramp + 0.4 * ramp[:, None] * noise)).round() / 255


def corrupted(kind, severity, images=None, seed=0):
    images = photos() if images is None else images
    return corrupt(images, kind, severity, index=torch.arange(len(images)), seed=seed)


def flat(level, count=2, size=64):
    return torch.full((count, 3, size, size), level)


@pytest.mark.parametrize("kind", KINDS)
def test_a_corruption_gives_pixels_of_8_bits_that_belong_to_the_sample_whatever_its_batch(kind):
    images, index = photos(), torch.tensor([7, 3, 5, 1])
    for severity in (1, 5):
        whole = corrupt(images, kind, severity, index=index)
        assert whole.shape == images.shape
        assert 0 <= whole.min() <= whole.max() <= 1
        torch.testing.assert_close(255 * whole, (255 * whole).round(), atol=1e-4, rtol=0)
        assert not torch.equal(whole, images)
        part = corrupt(images[[2, 0]], kind, severity, index=index[[2, 0]])
        torch.testing.assert_close(part, whole[[2, 0]], atol=BIT, rtol=0)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"saturate"}))
def test_a_higher_severity_is_further_from_the_image(kind):
    images = photos(8, 32)
    errors = [(corrupted(kind, severity, images) - images).square().mean().item() for severity in (1, 3, 5)]
    assert errors == sorted(errors)
    assert errors[0] < errors[-1]


def test_gaussian_noise_has_the_deviation_of_its_severity_and_follows_the_seed():
    noisy = corrupted("gaussian_noise", 3, flat(0.5))
    assert (noisy - 0.5).std().item() == pytest.approx(0.08, rel=0.05)
    assert not torch.equal(corrupted("gaussian_noise", 3, flat(0.5), seed=1), noisy)
    assert not torch.equal(noisy[0], noisy[1])


def test_shot_noise_has_the_variance_of_counted_photons():
    noisy = corrupted("shot_noise", 5, flat(0.4))
    assert noisy.mean().item() == pytest.approx(0.4, abs=0.01)
    assert noisy.var().item() == pytest.approx(0.4 / 50, rel=0.1)


def test_impulse_noise_makes_its_share_of_values_black_or_white_by_halves():
    noisy = corrupted("impulse_noise", 5, flat(0.5, size=128))
    assert (noisy == 1).float().mean().item() == pytest.approx(0.035, rel=0.15)
    assert (noisy == 0).float().mean().item() == pytest.approx(0.035, rel=0.15)


def test_speckle_noise_is_in_proportion_to_the_pixel():
    assert (corrupted("speckle_noise", 1, flat(0.8)) - 0.8).std().item() == pytest.approx(0.8 * 0.06, rel=0.05)
    assert corrupted("speckle_noise", 5, flat(0.0)).max() == 0


def naive_filter(image, kernel, mode):
    half = len(kernel) // 2
    padded = np.pad(image, half, mode=mode)
    height, width = image.shape
    return np.array(
        [
            [(padded[i : i + len(kernel), j : j + len(kernel)] * kernel).sum() for j in range(width)]
            for i in range(height)
        ]
    )


def bell(half, sigma):
    steps = np.arange(-half, half + 1)
    weights = np.exp(-0.5 * (steps[:, None] ** 2 + steps**2) / sigma**2)
    return weights / weights.sum()


def test_gaussian_blur_is_the_naive_convolution_with_repeated_edges():
    expected = naive_filter(photos()[0, 0].double().numpy(), bell(4, 1.0), "edge")
    np.testing.assert_allclose(corrupted("gaussian_blur", 5)[0, 0], expected, atol=BIT)


def test_defocus_blur_is_a_smoothed_disk_with_mirrored_edges():
    disk = np.zeros((5, 5))
    disk[1:4, 1:4] = 1 / 9  # radius 1.5 covers the diagonal neighbours
    kernel = naive_filter(disk, bell(1, 0.1), "constant")
    expected = naive_filter(photos()[0, 0].double().numpy(), kernel, "reflect")
    np.testing.assert_allclose(corrupted("defocus_blur", 5)[0, 0], expected, atol=BIT)


def in_hsv(image, change):
    pixels = image.permute(1, 2, 0).reshape(-1, 3).double().tolist()
    changed = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in pixels]
    return torch.tensor(changed).T.reshape(image.shape)


@pytest.mark.parametrize(
    ("kind", "severity", "change"),
    [
        ("brightness", 5, lambda h, s, v: (h, s, min(v + 0.3, 1))),
        ("saturate", 2, lambda h, s, v: (h, 0.1 * s, v)),
        ("saturate", 5, lambda h, s, v: (h, min(2.5 * s + 0.2, 1), v)),
    ],
)
def test_brightness_and_saturation_are_those_of_hsv_also_of_black_and_grey(kind, severity, change):
    image = photos()[0]
    image[:, 0, 0], image[:, 0, 1] = 0.0, 0.4
    torch.testing.assert_close(
        corrupted(kind, severity, image[None])[0], in_hsv(image, change).float(), atol=BIT, rtol=0
    )


def test_contrast_shrinks_the_distance_to_each_channels_mean():
    images = photos()
    mean = images.mean((2, 3), keepdim=True)
    torch.testing.assert_close(corrupted("contrast", 2), mean + 0.5 * (images - mean), atol=BIT, rtol=0)


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("size", [10, 32])  # of 10 pixels some centres lie on the edge of two parts
def test_pixelate_is_pillows_box_filter_down_and_up(severity, size):
    images = photos(2, size)
    smaller = int(size * KINDS["pixelate"].constants[severity - 1])
    array = (255 * images[0]).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(array).resize((smaller, smaller), Image.Resampling.BOX)
    expected = np.asarray(image.resize((size, size), Image.Resampling.BOX)).astype(float)
    ours = 255 * corrupted("pixelate", severity, images)[0].permute(1, 2, 0)
    np.testing.assert_allclose(ours, expected, atol=2.0)  # Pillow rounds after rows and after columns


def test_jpeg_is_that_of_pillow_at_the_same_quality():
    images = photos(1, 32)
    file = io.BytesIO()
    Image.fromarray((255 * images[0]).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=40)
    expected = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1) / 255
    assert (corrupted("jpeg_compression", 5, images)[0] - expected).abs().mean() < 0.01


class Bright(nn.Module):
    """Class 1 where the mean exceeds a half."""

    def forward(self, inputs):
        margin = inputs.flatten(1).mean(1) - 0.5
        return torch.stack([-margin, margin], dim=1)


def levels(*means, target=1):
    images = torch.stack([torch.full((3, 12, 12), mean) for mean in means])
    return [Batch(images, torch.full((len(means),), target), torch.arange(len(means)))]


def test_the_evaluation_reports_each_kind_and_severity_and_the_ratio_to_clean():
    loader = levels(0.47, 0.35, 0.32, 0.1, target=0)
    evaluation = CommonCorruptions(kinds=["brightness", "gaussian_blur"], severities=[1, 3, 5])
    result = json.loads(json.dumps(evaluation(Bright(), loader, [], DATA)))
    blur = {"kind": "gaussian_blur", "acc": 100, "of_clean": 100, "severity1": 100, "severity3": 100, "severity5": 100}
    assert result["kinds"][1] == blur
    assert result["kinds"][0] == {
        "kind": "brightness",
        "acc": pytest.approx((75 + 75 + 25) / 3),  # 0.05, 0.15 and 0.3 are added
        "of_clean": pytest.approx((75 + 75 + 25) / 3),
        "severity1": 75,
        "severity3": 75,
        "severity5": 25,
    }
    assert result["mean_acc"] == pytest.approx((175 + 300) / 6)
    assert (result["samples"], result["clean_acc"], result["left_out"]) == (4, 100, [])


def test_ratio_to_clean_is_one_of_accuracies_and_absent_where_nothing_was_right():
    loader = levels(0.6, 0.49, target=1)
    result = CommonCorruptions(kinds=["brightness"], severities=[1])(Bright(), loader, [], DATA)
    assert (result["clean_acc"], result["mean_acc"], result["of_clean"]) == (50, 100, 200)
    result = CommonCorruptions(kinds=["contrast"])(Bright(), levels(0.2), [], DATA)
    assert (result["clean_acc"], result["of_clean"]) == (0, None)


def test_kinds_that_need_colour_are_left_out_of_grey_images_and_named():
    data = DataSpec("fake", 2, (1, 12, 12), (0.0,), (1.0,))
    loader = [Batch(photos(channels=1), torch.zeros(4, dtype=torch.long), torch.arange(4))]
    result = CommonCorruptions(severities=[1], samples=3)(Bright(), loader, [], data)
    assert result["left_out"] == ["saturate"]
    assert len(result["kinds"]) == len(KINDS) - 1
    assert result["samples"] == 3
    with pytest.raises(ConfigError, match="not for 1 channel"):
        CommonCorruptions(kinds=["saturate"]).check(Bright(), [], data)
    CommonCorruptions().check(Bright(), [], data)


def test_wrong_options_and_empty_loaders_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'gaussian_noise'"):
        CommonCorruptions(kinds=["gausian_noise"])
    for options in ({"severities": [0]}, {"severities": []}, {"kinds": []}, {"samples": 0}):
        with pytest.raises(ConfigError, match=r"eval\.corruptions"):
            CommonCorruptions(**options)
    with pytest.raises(DataError, match="no batch"):
        CommonCorruptions()(Bright(), [], [], DATA)


def test_images_smaller_than_a_blur_are_blurred_all_the_same():
    for kind in KINDS:
        assert not math.isnan(corrupted(kind, 5, photos(size=4)).sum())
