import gzip

import numpy as np
import pytest

from kdbench.core.errors import DataError
from kdbench.data.arrays import make_fake, read_digits, resized
from kdbench.data.fashion_mnist import read_fashion_mnist, read_idx
from kdbench.data.labelled import Labelled, checksum

SHAPE = {"num_classes": 7, "channels": 2, "image_size": 10, "sizes": {"train": 350, "test": 70}}


def test_digits_are_1797_images_over_the_full_range_of_bytes():
    train, test = read_digits({})
    assert train.images.shape == (1438, 1, 8, 8)
    assert test.images.shape == (359, 1, 8, 8)
    assert train.images.dtype == np.uint8
    assert (train.images.min(), train.images.max()) == (0, 255)
    assert len(np.unique(train.images)) == 17


def test_digits_test_set_is_stratified():
    train, test = read_digits({})
    for label in range(10):
        size = (train.labels == label).sum() + (test.labels == label).sum()
        assert abs((test.labels == label).sum() - 0.2 * size) < 1


@pytest.mark.parametrize("compressed", [True, False])
def test_fashion_mnist_reads_what_was_written(compressed, tmp_path, write_fashion):
    write_fashion(tmp_path / "data", compressed=compressed)
    train, test = read_fashion_mnist({}, tmp_path / "data")
    assert (train.images.shape, test.images.shape) == ((40, 1, 28, 28), (20, 1, 28, 28))
    expected = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    assert np.array_equal(train.images[:, 0], expected)
    assert test.labels.tolist() == [*range(10), *range(10)]
    assert test.labels.dtype == np.int64


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("keep", [0, 3, 10, 200, -1])
def test_truncated_idx_is_an_error_naming_the_file(compressed, keep, tmp_path, write_fashion):
    write_fashion(tmp_path / "data", compressed=compressed)
    path = tmp_path / "data" / ("train-images-idx3-ubyte" + ".gz" * compressed)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=f"{path}: "):
        read_fashion_mnist({}, tmp_path / "data")


@pytest.mark.parametrize("at", [2, 3])
def test_idx_of_another_type_or_dimension_is_an_error(at, tmp_path):
    raw = bytearray([0, 0, 8, 1, 0, 0, 0, 2, 5, 6])
    (tmp_path / "good").write_bytes(raw)
    assert read_idx(tmp_path / "good", dimensions=1).tolist() == [5, 6]
    raw[at] += 1
    (tmp_path / "bad").write_bytes(raw)
    with pytest.raises(DataError, match="not an idx file of uint8 in 1 dimensions"):
        read_idx(tmp_path / "bad", dimensions=1)


@pytest.mark.parametrize("at", [0, 10, -5])  # in the header, the compressed data, the checksum
def test_damaged_gzip_is_an_error_naming_the_file(at, tmp_path):
    raw = bytearray(gzip.compress(bytes(1000)))
    raw[at] ^= 255
    (tmp_path / "x.gz").write_bytes(raw)
    with pytest.raises(DataError, match=r"x\.gz: damaged"):
        read_idx(tmp_path / "x.gz", dimensions=1)


def test_images_and_labels_must_be_as_many(tmp_path, write_fashion):
    write_fashion(tmp_path / "data")
    labels = (tmp_path / "data" / "t10k-labels-idx1-ubyte.gz").read_bytes()
    (tmp_path / "data" / "train-labels-idx1-ubyte.gz").write_bytes(labels)
    with pytest.raises(DataError, match="40 images but 20 labels"):
        read_fashion_mnist({}, tmp_path / "data")


def test_fake_has_the_shape_and_balance_it_was_asked_for():
    train, test = make_fake(SHAPE)
    assert (train.images.shape, test.images.shape) == ((350, 2, 10, 10), (70, 2, 10, 10))
    assert np.bincount(train.labels).tolist() == [50] * 7
    assert not np.array_equal(train.images[:70], test.images)


def test_fake_can_be_learned():
    train, test = make_fake(SHAPE)
    centres = np.stack([train.images[train.labels == label].mean(0) for label in range(7)])
    distances = ((test.images[:, None] - centres) ** 2).sum((2, 3, 4))
    assert (distances.argmin(1) == test.labels).mean() > 0.8


def test_fake_is_the_same_on_every_machine():
    assert checksum(make_fake(SHAPE))[:16] == "36f3ae64d278163a"


def test_resized_doubles_and_halves_smooth_images():
    ramp = np.broadcast_to(np.arange(0, 128, 16, dtype=np.uint8), (3, 2, 8, 8))
    for size in (16, 4):
        images = resized(ramp, size)
        assert images.shape == (3, 2, size, size)
        assert images.dtype == np.uint8
        assert abs(images.mean() - ramp.mean()) < 1
        assert (np.diff(images.astype(int), axis=3) >= 0).all()
    assert resized(ramp, 8) is ramp


def test_checksum_sees_pixels_and_labels():
    images, labels = np.zeros((2, 1, 2, 2), np.uint8), np.zeros(2, np.int64)
    part = Labelled(images, labels)
    sums = {
        checksum(parts)
        for parts in ((part, part), (Labelled(images + 1, labels), part), (Labelled(images, labels + 1), part))
    }
    assert len(sums) == 3
