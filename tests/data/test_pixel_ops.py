"""Every operation against torchvision's, image by image, at strengths of each image's own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import RandAugment as TheirRandAugment
from torchvision.transforms.v2 import TrivialAugmentWide
from torchvision.transforms.v2 import functional as F  # noqa: N812

from kdbench.data import pixel_ops
from kdbench.data.auto_augment import narrow_ops, wide_ops

SHAPES = [(3, 32, 32), (1, 28, 28), (3, 9, 13), (1, 8, 8), (3, 2, 3)]


def images_of(shape: tuple[int, ...], count: int = 24) -> Tensor:
    """Noise of several ranges, smooth pictures, and images of one level."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(count, *shape, generator=generator)
    ramp = torch.linspace(0, 1, shape[-1]).expand(count, *shape) * torch.rand(count, 1, 1, 1, generator=generator)
    images = torch.where(torch.arange(count)[:, None, None, None] % 2 == 0, noise * 0.6 + 0.2, ramp)
    images[-1], images[-2] = 0.5, noise[-2].round()
    return (images * 255).byte()


def levels_apart(ours: Tensor, theirs: Tensor) -> int:
    assert ours.dtype == torch.uint8
    assert ours.shape == theirs.shape
    return int((ours.int() - theirs.int()).abs().max())


FACTORS = torch.linspace(0, 1.99, 24)
WITH_STRENGTH: list[tuple[Callable[..., Tensor], Callable[..., Tensor], Tensor]] = [
    (pixel_ops.brightness, F.adjust_brightness, FACTORS),
    (pixel_ops.contrast, F.adjust_contrast, FACTORS),
    (pixel_ops.saturation, F.adjust_saturation, FACTORS),
    (pixel_ops.sharpness, F.adjust_sharpness, FACTORS),
    (pixel_ops.hue, F.adjust_hue, torch.linspace(-0.5, 0.5, 24)),
    (pixel_ops.posterize, lambda image, bits: F.posterize(image, int(bits)), torch.arange(24) % 9.0),
    (pixel_ops.solarize, F.solarize, torch.linspace(0, 255, 24)),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("ours", "theirs", "strengths"), WITH_STRENGTH, ids=lambda value: getattr(value, "__name__", "")
)
def test_operation_is_torchvision_s_at_every_strength(ours, theirs, strengths, shape):
    images = images_of(shape)
    before = images.clone()
    expected = torch.stack([theirs(image, float(s)) for image, s in zip(images, strengths, strict=True)])
    found = ours(images, strengths)
    assert levels_apart(found, expected) <= 1
    assert (found != expected).float().mean() < 0.01, "one level apart, where rounding differs, in a pixel of a hundred"
    assert torch.equal(images, before)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("ours", "theirs"), [(pixel_ops.autocontrast, F.autocontrast), (pixel_ops.equalize, F.equalize)]
)
def test_operation_without_strength_is_exactly_torchvision_s(ours, theirs, shape):
    images = images_of(shape)
    before = images.clone()
    assert torch.equal(ours(images), torch.stack([theirs(image) for image in images]))
    assert torch.equal(images, before)


THEIR_NAMES = {
    "identity": "Identity", "shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateX",
    "translate_y": "TranslateY", "rotate": "Rotate", "brightness": "Brightness", "color": "Color",
    "contrast": "Contrast", "sharpness": "Sharpness", "posterize": "Posterize", "solarize": "Solarize",
    "autocontrast": "AutoContrast", "equalize": "Equalize",
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", THEIR_NAMES)
@pytest.mark.parametrize(
    ("space", "policy"), [(narrow_ops, TheirRandAugment()), (wide_ops, TrivialAugmentWide())], ids=["narrow", "wide"]
)
def test_policy_operation_is_torchvision_s_at_every_magnitude(space, policy, name, shape):
    height, width = shape[1:]
    ops, theirs = space(height, width), policy._AUGMENTATION_SPACE
    assert {THEIR_NAMES[op] for op in ops} == set(theirs)
    magnitudes, signed = theirs[THEIR_NAMES[name]]
    values = magnitudes(31, height, width)
    values = torch.zeros(31) if values is None else values.float()
    op = ops[name]
    assert op.signed == signed
    strengths = torch.linspace(0, 1, 31)
    ours = op.least + (op.most - op.least) * strengths
    if name == "posterize":
        ours = ours.round()
    torch.testing.assert_close(ours, values, rtol=1e-6, atol=1e-6)
    images = images_of(shape, 31)
    for sign in (1, -1) if signed else (1,):
        expected = torch.stack(
            [
                policy._apply_image_or_video_transform(
                    image, THEIR_NAMES[name], float(v) * sign, policy.interpolation, {}
                )
                for image, v in zip(images, values, strict=True)
            ]
        )
        found = op.kernel(images, op.argument(values * sign))
        differs = (found != expected).any(1).float().mean()
        if name in ("shear_x", "shear_y", "rotate"):
            assert differs < 0.01, "a place on the border of two pixels may round to the other"
        else:
            assert levels_apart(found, expected) <= 1
            assert differs < 0.05, "one level apart, where rounding differs"


@pytest.mark.parametrize("name", THEIR_NAMES)
def test_operations_take_any_number_of_channels(name):
    images, op = images_of((4, 7, 5)), narrow_ops(7, 5)[name]
    assert op.kernel(images, op.argument(torch.full((24,), 0.5))).shape == images.shape
