"""What RandAugment, TrivialAugment, colour jitter and erasing draw: how often, and from where to where."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import ColorJitter as TheirColorJitter
from torchvision.transforms.v2 import RandomErasing

from kdbench.data import pixel_ops
from kdbench.data.auto_augment import RandAugment, TrivialAugment, _Op, apply_ops, narrow_ops
from kdbench.data.color_jitter import ColorJitter
from kdbench.data.counter import sample_keys, uniform
from kdbench.data.erasing import Erasing

COUNT = 14_000
KEYS = sample_keys(0, 0, torch.arange(COUNT))


def assert_even(values: Tensor, outcomes: int) -> None:
    """Chi square of equally likely outcomes, within four of its standard deviations."""
    expected = len(values) / outcomes
    statistic = (values.bincount(minlength=outcomes) - expected).square().sum() / expected
    assert statistic < outcomes - 1 + 4 * (2 * (outcomes - 1)) ** 0.5


def test_uniform_is_even_and_keeps_to_its_bounds():
    values = uniform(KEYS, 0, -2.0, 3.0)
    assert values.dtype == torch.float32
    assert values.min() >= -2
    assert values.max() < 3
    assert_even(((values + 2) * 4).long(), 20)


def spies() -> dict[str, _Op]:
    """14 operations that write their number, and their strength with its sign, into the image."""
    return {
        str(number): _Op(
            lambda images, arguments, number=number: torch.stack(
                [torch.full_like(images[:, 0], number), (arguments * 10 + 100).byte()[:, None, None]], 1
            ),
            signed=number % 2 == 1,
            most=10.0,
        )
        for number in range(14)
    }


def test_every_operation_and_both_signs_are_equally_likely():
    strengths = torch.arange(COUNT) % 11 / 10
    chosen, argument = apply_ops(spies(), torch.zeros(COUNT, 2, 1, 1, dtype=torch.uint8), KEYS, strengths).unbind(1)
    chosen, argument = chosen.flatten().long(), argument.flatten().int() - 100
    assert_even(chosen, 14)
    size = (strengths * 100).round().int()
    assert torch.equal(argument.abs(), size)
    assert (argument[chosen % 2 == 0] >= 0).all()
    signed = argument[(chosen % 2 == 1) & (size > 0)]
    assert_even((signed > 0).long(), 2)


def test_randaugment_applies_so_many_at_one_strength():
    images = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    keys = KEYS[:64]
    none = (RandAugment(ops=1, magnitude=0, bins=31)(images, keys) == images).flatten(1).all(1)
    weak = sum(name not in ("autocontrast", "equalize") for name in narrow_ops(16, 16))
    assert none.sum() >= 64 * weak / 14 - 12, "at strength 0 all but two operations do nothing"
    once = RandAugment(ops=1, magnitude=20, bins=31)(images, keys)
    twice = RandAugment(ops=2, magnitude=20, bins=31)(images, keys)
    assert not torch.equal(once, twice)


def test_trivialaugment_draws_every_strength_alike(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "kdbench.data.auto_augment.apply_ops", lambda ops, images, keys, strengths: seen.append(strengths)
    )
    TrivialAugment(bins=31)(torch.zeros(COUNT, 1, 2, 2, dtype=torch.uint8), KEYS)
    assert_even((seen[0] * 30).round().long(), 31)


def test_jitter_applies_its_factors_in_an_order_of_each_image_s_own():
    images = torch.randint(0, 256, (48, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    jitter = ColorJitter(brightness=0.5, contrast=0.0, saturation=0.3, hue=0.0)
    seen = jitter(images, KEYS[:48])
    bright, colour = uniform(KEYS[:48], 0, 0.5, 1.5), uniform(KEYS[:48], 1, 0.7, 1.3)
    one = pixel_ops.saturation(pixel_ops.brightness(images, bright), colour)
    other = pixel_ops.brightness(pixel_ops.saturation(images, colour), bright)
    as_one, as_other = ((seen == way).flatten(1).all(1) for way in (one, other))
    assert (as_one | as_other).all()
    assert 8 < as_one.sum() < 40
    assert 8 < as_other.sum() < 40


def test_jitter_has_the_mean_and_spread_of_torchvision_s():
    image = torch.tensor([200, 100, 50], dtype=torch.uint8).view(3, 1, 1).expand(3, 2, 2)
    torch.manual_seed(0)
    options = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    theirs = torch.stack([TheirColorJitter(**options)(image)[:, 0, 0] for _ in range(1500)]).float()
    ours = ColorJitter(**options)(image.expand(COUNT, 3, 2, 2), KEYS)[:, :, 0, 0].float()
    torch.testing.assert_close(ours.mean(0), theirs.mean(0), atol=5, rtol=0)
    torch.testing.assert_close(ours.std(0), theirs.std(0), atol=3, rtol=0)


def erased(count: int, **options) -> Tensor:
    """Which pixels of white 20x30 images are erased, `(count, 20, 30)`."""
    options = {"prob": 1.0, "area": [0.02, 0.33], "aspect": [0.3, 3.3], "fill": "black"} | options
    return Erasing(**options)(torch.full((count, 3, 20, 30), 255, dtype=torch.uint8), KEYS[:count]).sum(1) < 765


def test_what_is_erased_is_one_rectangle_of_the_asked_area_and_aspect():
    masks = erased(2000, area=[0.1, 0.2], aspect=[0.5, 2.0])
    heights, widths = masks.any(2).sum(1), masks.any(1).sum(1)
    assert torch.equal(heights * widths, masks.sum((1, 2))), "full"
    assert heights.min() > 0
    area, aspect = masks.float().mean((1, 2)), heights / widths
    assert 0.08 < area.min() < 0.11 < 0.19 < area.max() < 0.22
    assert 0.4 < aspect.min() < 0.65 < 1.6 < aspect.max() < 2.4
    assert abs(aspect.log().mean()) < 0.05


def test_erasing_has_the_mean_and_spread_of_torchvision_s():
    torch.manual_seed(0)
    theirs = torch.stack([RandomErasing(p=0.7)(torch.ones(1, 20, 30))[0] for _ in range(3000)]) == 0
    ours = erased(COUNT, prob=0.7)
    for statistic in (lambda m: m.any((1, 2)).float(), lambda m: m.float().mean((1, 2)),
                      lambda m: m.any(2).float().mean(1), lambda m: m.any(1).float().mean(1)):  # fmt: skip
        one, other = statistic(ours), statistic(theirs)
        tolerance = 4 * float(other.std()) * math.sqrt(1 / 3000 + 1 / COUNT)
        torch.testing.assert_close(one.mean(), other.mean(), atol=tolerance, rtol=0)
    torch.testing.assert_close(ours.float().mean(0), theirs.float().mean(0), atol=0.05, rtol=0)


def test_noise_fills_the_rectangle_alone_with_even_values():
    images = torch.full((600, 3, 20, 30), 7, dtype=torch.uint8)
    options = {"prob": 1.0, "area": [0.1, 0.3], "aspect": [0.5, 2.0]}
    noisy = Erasing(**options, fill="noise")(images, KEYS[:600])
    mask = (Erasing(**options, fill="black")(images, KEYS[:600]) == 0)[:, :1].expand_as(noisy)
    assert (noisy[~mask] == 7).all()
    assert_even(noisy[mask].long(), 256)
    assert abs(torch.corrcoef(noisy.transpose(0, 1)[mask.transpose(0, 1)].view(3, -1).float())[0, 1]) < 0.02


@pytest.mark.parametrize(("prob", "area"), [(0.0, [0.1, 0.2]), (1.0, [1.0, 1.0])])
def test_nothing_is_erased_where_it_is_not_drawn_or_nothing_fits(prob, area):
    assert not erased(100, prob=prob, area=area).any()
