"""Photos decoded as they are needed: the pixels, the order and the weights are those of memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdbench.core.errors import ConfigError, DataError
from kdbench.core.types import Batch
from kdbench.data.counter import sample_keys
from kdbench.data.crop import ResizedCrop
from kdbench.data.load import DataSplits, load_data
from kdbench.data.loader import EvalLoader, TrainLoader
from kdbench.data.stream import Stream
from kdbench.data.views import make_views

CROP = {"resized_crop": {"version": 1, "area": [0.08, 1.0], "aspect": [0.75, 1.3333]}}


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Noisy JPEG photos of three classes and all shapes, 12 to train on and 4 to test on of each."""
    random = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 4)):
        for label in range(3):
            folder = tmp_path / part / f"n{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 120, (*random.integers(20, 50, 2), 3))
                pixels += np.array([60 * label, 120 - 60 * label, 0])
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.JPEG")
    return tmp_path


@pytest.fixture
def load(birds: Path, config_of: Any) -> Any:
    def load(reader: str = "imagefolder", **keys: Any) -> DataSplits:
        keys = {"num_classes": 3, "image_size": 16, "root": str(birds), **keys}
        return load_data(config_of(reader, **keys), birds)

    return load


def train_loader(data: DataSplits, **keys: Any) -> TrainLoader:
    views = make_views({"crop_flip": {"padding": 2}})
    return TrainLoader(data.train, 8, **{"seed": 0, "views": views, "two_views": True} | keys)


def tensors(batches: Any) -> list[torch.Tensor]:
    return [part for batch in batches for part in batch if isinstance(part, torch.Tensor)]


def same(ones: Any, others: Any) -> bool:
    return all(torch.equal(one, other) for one, other in zip(tensors(ones), tensors(others), strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_are_those_of_memory(workers: int, load: Any) -> None:
    held, streamed = load(in_memory=True), load(in_memory=False)
    assert isinstance(streamed.train.images, Stream)
    assert not isinstance(held.train.images, Stream)
    assert streamed.spec.mean == held.spec.mean
    assert streamed.spec.std == held.spec.std
    assert streamed.spec.class_names == ("n0", "n1", "n2")
    one, other = train_loader(held), train_loader(streamed, workers=workers)
    for _ in range(2):
        assert same(list(one), list(other))
    assert same(EvalLoader(held.test, 5), EvalLoader(streamed.test, 5, workers=workers))
    assert next(iter(other)).inputs.stride() == next(iter(one)).inputs.stride()


def test_a_choice_of_samples_is_that_of_memory(load: Any) -> None:
    held, streamed = (load(in_memory=held, fraction=0.5) for held in (True, False))
    positions = torch.tensor([3, 0, 7])
    assert same([train_loader(held).at(positions, 4)], [train_loader(streamed).at(positions, 4)])
    assert same([EvalLoader(held.test, 5).at(positions)], [EvalLoader(streamed.test, 5).at(positions)])


@pytest.mark.parametrize("step", [1, 4, 6])
def test_cropped_photos_go_on_bit_for_bit_after_a_seek(step: int, load: Any) -> None:
    data = load(augment=CROP)
    assert isinstance(data.train.images, Stream), "whole photos are needed"
    straight, resumed = train_loader(data), train_loader(data)
    batches = [batch for _ in range(2) for batch in straight]
    assert len(straight) == 4
    resumed.seek(step)
    assert same(batches[step:], [batch for _ in range(2 - step // 4) for batch in resumed])
    first, again = batches[0], train_loader(data).at(torch.arange(len(data.train)), 0)
    assert not torch.equal(first.inputs, first.second), "two looks are two crops"
    by_index = {int(index): pixels for index, pixels in zip(again.index, again.inputs, strict=True)}
    assert all(torch.equal(by_index[int(i)], pixels) for i, pixels in zip(first.index, first.inputs, strict=True))


def test_no_crop_is_seen_in_validation(load: Any) -> None:
    cropped, whole = load(augment=CROP), load(in_memory=True)
    assert cropped.val is not None
    assert same(EvalLoader(cropped.val, 8), EvalLoader(whole.val, 8))
    assert same(EvalLoader(cropped.test, 8), EvalLoader(whole.test, 8))


def test_streaming_draws_nothing_from_the_global_generator(load: Any) -> None:
    before = torch.get_rng_state()
    list(train_loader(load(in_memory=False)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_photo_is_one_line(workers: int, birds: Path, load: Any) -> None:
    data = load(in_memory=False, mean=[0.5] * 3, std=[0.5] * 3)
    path = birds / "val" / "n1" / "2.JPEG"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError) as error:
        list(EvalLoader(data.test, 5, workers=workers))
    assert len(error.value.problems) == 1
    assert error.value.problems[0].startswith(f"{path}: cannot be read as an image")


def test_crops_of_photos_in_memory_are_refused(load: Any, config_of: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.in_memory=true: resized_crop shows parts of whole photos"):
        load(in_memory=True, augment=CROP)
    with pytest.raises(ConfigError, match="digits is no set of whole photos"):
        load_data(config_of("digits", augment=CROP), tmp_path)


def test_imagenet_is_a_folder_of_synsets(load: Any, birds: Path) -> None:
    data = load("imagenet", mean=None, std=None)
    assert (len(data.test), data.spec.class_names) == (12, ("n0", "n1", "n2"))
    (birds / "val").rename(birds / "elsewhere")
    with pytest.raises(
        DataError, match=r"lacks val.*image-net\.org.*dataset\.root=FOLDER.*paths\.data=FOLDER"
    ) as error:
        load("imagenet")
    assert "fetch" not in str(error.value)


@pytest.mark.parametrize(("width", "height"), [(40, 30), (10, 200), (300, 9), (1, 1)])
def test_crops_lie_within_the_photo_and_have_the_area_that_is_asked_for(width: int, height: int) -> None:
    crop = ResizedCrop(area=(0.08, 1.0), aspect=(0.75, 1.3333))
    draws = crop.draws(sample_keys(0, 0, torch.arange(500))).numpy()
    boxes = np.array([crop.box(row, width, height) for row in draws])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [width, height]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    if (width, height) == (40, 30):
        w, h = (boxes[:, 2:] - boxes[:, :2]).T
        assert 0.07 < (w * h).min() / 1200 < 0.12
        assert 0.35 < (w * h).mean() / 1200 < 0.54  # large ones seldom fit
        assert (w / h).min() > 0.65
        assert len({tuple(box) for box in boxes}) > 450


def test_batches_carry_their_labels_and_places(load: Any) -> None:
    data = load(in_memory=False)
    batch = next(iter(train_loader(data, workers=1)))
    assert isinstance(batch, Batch)
    assert torch.equal(batch.target, data.spec.labels[batch.index])
