import numpy as np
import pytest
import torch

from kdbench.data.counter import sample_keys
from kdbench.data.crop import CropFlip
from kdbench.data.views import VIEWS, apply_views, make_views

OPTIONS = {
    "crop_flip": {"padding": 4},
    "crop": {"padding": 4},
    "flip": {"prob": 0.5},
    "color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    "randaugment": {"ops": 2, "magnitude": 9, "bins": 31},
    "trivialaugment": {"bins": 31},
    "erasing": {"prob": 0.5, "area": [0.02, 0.33], "aspect": [0.3, 3.3], "fill": "noise"},
}


def outcomes(image: np.ndarray, padding: int) -> dict[bytes, int]:
    """Every crop of the padded image and its mirror, written with loops."""
    H, W = image.shape[1:]
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    crops = [
        padded[:, top : top + H, left : left + W] for top in range(2 * padding + 1) for left in range(2 * padding + 1)
    ]
    found = [view for crop in crops for view in (crop, crop[:, :, ::-1])]
    return {view.tobytes(): number for number, view in enumerate(found)}


@pytest.mark.parametrize(("padding", "shape"), [(0, (1, 3, 4)), (1, (3, 4, 5)), (4, (1, 11, 11))])
def test_all_crops_and_flips_are_equally_likely_and_nothing_else_happens(padding, shape):
    image = np.arange(1, 1 + np.prod(shape), dtype=np.uint8).reshape(shape)
    numbers = outcomes(image, padding)
    count = 2 * (2 * padding + 1) ** 2
    assert len(numbers) == count
    batch = torch.from_numpy(image).expand(count * 100, *shape)
    views = CropFlip(padding=padding)(batch, sample_keys(0, 0, torch.arange(len(batch))))
    seen = np.bincount([numbers[view.tobytes()] for view in views.numpy()], minlength=count)
    statistic = ((seen - 100) ** 2 / 100).sum()
    assert abs(statistic - (count - 1)) < 4 * (2 * (count - 1)) ** 0.5


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def views_of(name: str):
    return make_views({name: OPTIONS[name]})


@pytest.mark.parametrize("name", VIEWS)
def test_view_of_a_sample_does_not_depend_on_its_batch(name, images):
    index = torch.arange(64)
    together = apply_views(views_of(name), images, sample_keys(1, 2, index))
    some = torch.arange(63, -1, -3)
    alone = apply_views(views_of(name), images[some], sample_keys(1, 2, some))
    assert torch.equal(alone, together[some])


@pytest.mark.parametrize("name", VIEWS)
def test_views_change_with_seed_and_epoch(name, images):
    index, views = torch.arange(64), views_of(name)
    one = apply_views(views, images, sample_keys(0, 0, index))
    for seed, epoch in ((1, 0), (0, 1)):
        other = apply_views(views, images, sample_keys(seed, epoch, index))
        same = (one == other).flatten(1).all(1).sum()
        assert same < (45 if name in ("flip", "erasing") else 15), "some of these leave an image alone"


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 5, 9), (2, 2, 3)])
@pytest.mark.parametrize("name", VIEWS)
def test_views_take_any_shape_and_leave_the_data_as_they_are(name, shape):
    images = torch.randint(0, 256, (40, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    seen = apply_views(views_of(name), images, sample_keys(0, 0, torch.arange(40)))
    assert (seen.shape, seen.dtype) == (images.shape, torch.uint8)
    assert torch.equal(images, before)


@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_flip_mirrors_so_many_and_changes_nothing_else(prob):
    images = torch.arange(12, dtype=torch.uint8).view(1, 1, 3, 4).expand(2000, 1, 3, 4)
    seen = make_views({"flip": {"prob": prob}})[0](images, sample_keys(0, 0, torch.arange(2000)))
    mirrored = (seen == images.flip(-1)).flatten(1).all(1)
    assert ((seen == images).flatten(1).all(1) ^ mirrored).all()
    assert abs(mirrored.float().mean() - prob) <= 4 * (prob * (1 - prob) / 2000) ** 0.5


def test_none_is_the_images_themselves(images):
    assert apply_views(make_views({"none": {}}), images, sample_keys(0, 0, torch.arange(64))) is images


def test_views_of_another_stream_draw_on_their_own(images):
    keys = sample_keys(0, 0, torch.arange(64))
    other = CropFlip(padding=4)
    other.stream = 1
    assert not torch.equal(apply_views([other], images, keys), apply_views([CropFlip(padding=4)], images, keys))
