from dataclasses import replace

import pytest
import torch

from kdbench.config.compose import Composer
from kdbench.core.errors import ConfigError, DataError
from kdbench.data.load import load_data
from kdbench.metrics.base import Samples
from kdbench.samples import read_samples


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return load_data(Composer().resolve(("dataset=digits",), ())["dataset"], tmp_path_factory.mktemp("data"))


def colourful(own):
    return replace(own, spec=replace(own.spec, input_shape=(3, 16, 16)))


def test_a_split_of_the_networks_own_dataset_is_the_one_it_was_trained_with(digits, tmp_path):
    assert torch.equal(read_samples(Samples("train"), digits, tmp_path, where="x").index, digits.train.index)
    assert torch.equal(read_samples(Samples("test"), digits, tmp_path, where="x").images, digits.test.images)


def test_colour_becomes_grey_by_the_mean_and_images_get_the_networks_size(digits, tmp_path):
    found = read_samples(Samples("test", "fake"), digits, tmp_path, where="x")
    config = Composer().resolve(("dataset=fake",), ())["dataset"]
    original = load_data({**config, "image_size": 8}, tmp_path).test
    assert found.images.shape == (200, 1, 8, 8)
    assert torch.equal(found.images, original.images.float().mean(1, keepdim=True).round().byte())
    assert torch.equal(found.labels, original.labels)


def test_grey_becomes_colour_by_repetition(digits, tmp_path):
    found = read_samples(Samples("train", "digits"), colourful(digits), tmp_path, where="x")
    assert found.images.shape == (len(digits.train), 3, 16, 16)
    assert torch.equal(found.images[:, 0], found.images[:, 2])


def test_what_cannot_be_had_is_an_error_that_names_the_option(digits, tmp_path):
    with pytest.raises(ConfigError, match=r"eval\.ood\.dataset=fak: .*did you mean 'fake'"):
        read_samples(Samples("test", "fak"), digits, tmp_path, where="eval.ood.dataset")
    two = replace(digits, spec=replace(digits.spec, input_shape=(2, 8, 8)))
    with pytest.raises(ConfigError, match="3 channels, the network takes 2"):
        read_samples(Samples("test", "fake"), two, tmp_path, where="eval.ood.dataset")
    with pytest.raises(DataError, match="looked in /nowhere"):
        read_samples(Samples("test", "fashion_mnist", "/nowhere"), digits, tmp_path, where="eval.ood.dataset")
