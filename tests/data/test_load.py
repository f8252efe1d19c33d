import hashlib

import numpy as np
import pytest
import torch

from kdbench.core.errors import ConfigError, DataError
from kdbench.data.catalog import describe
from kdbench.data.load import load_data
from kdbench.data.survey import complete, read_survey


def test_digits_splits_are_disjoint_and_complete(config_of, tmp_path):
    data = load_data(config_of("digits"), tmp_path)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (1294, 144, 359)
    assert torch.equal(torch.cat([data.train.index, data.val.index]).sort().values, torch.arange(1438))
    assert torch.equal(data.test.index, torch.arange(359))


def test_index_leads_back_to_the_full_training_set(config_of, tmp_path):
    whole = load_data(config_of("digits", val_fraction=0), tmp_path)
    data = load_data(config_of("digits", train_size=500), tmp_path)
    assert whole.val is None
    assert data.val is not None
    for split in (data.train, data.val):
        assert torch.equal(whole.train.images[split.index], split.images)
        assert torch.equal(whole.train.labels[split.index], split.labels)


def test_validation_is_stratified_and_follows_split_seed(config_of, tmp_path):
    zero, one = (load_data(config_of("digits", split_seed=seed), tmp_path) for seed in (0, 1))
    assert zero.val is not None
    assert one.val is not None
    assert zero.val.index.tolist() != one.val.index.tolist()
    sizes = (zero.train.labels.bincount() + zero.val.labels.bincount()).double()
    assert ((zero.val.labels.bincount() - sizes * 144 / 1438).abs() < 1).all()


def test_train_size_keeps_so_many_stratified_and_leaves_validation_alone(config_of, tmp_path):
    small, full = (load_data(config_of("digits", train_size=size), tmp_path) for size in (100, None))
    assert len(small.train) == small.spec.train_size == 100
    assert set(small.train.index.tolist()) < set(full.train.index.tolist())
    assert ((small.train.labels.bincount() - 10).abs() <= 1).all()
    assert small.val is not None
    assert full.val is not None
    assert torch.equal(small.val.index, full.val.index)


def test_default_digits_are_the_same_on_every_machine(config_of, tmp_path):
    index = load_data(config_of("digits"), tmp_path).train.index
    assert hashlib.sha256(index.numpy().astype("<i8").tobytes()).hexdigest()[:16] == "fb54b49e9b262b8f"


@pytest.mark.parametrize("name", ["digits", "fake"])
def test_statistics_are_those_of_the_training_pixels(name, config_of, tmp_path):
    data = load_data(config_of(name, mean=None, std=None), tmp_path)
    pixels = data.train.images.numpy() / 255
    assert data.spec.mean == pytest.approx(pixels.mean((0, 2, 3)))
    assert data.spec.std == pytest.approx(pixels.std((0, 2, 3)))
    if name == "digits":
        given = load_data(config_of(name), tmp_path).spec
        assert given.mean == pytest.approx(data.spec.mean, abs=0.002)
        assert given.std == pytest.approx(data.spec.std, abs=0.002)


def test_image_size_is_what_networks_see(config_of, tmp_path):
    data = load_data(config_of("digits", image_size=32), tmp_path)
    assert data.spec.input_shape == data.train.images.shape[1:] == data.test.images.shape[1:] == (1, 32, 32)


def test_equal_configs_share_one_copy_whatever_the_budget(config_of, tmp_path):
    first = load_data(config_of("fake"), tmp_path)
    assert load_data(config_of("fake", budget={"max_epochs": 1}), tmp_path) is first
    assert load_data(config_of("fake", split_seed=1), tmp_path) is not first


def test_fashion_mnist_in_torchvision_layout_is_loaded(small_fashion, tmp_path, write_fashion):
    write_fashion(tmp_path / "FashionMNIST" / "raw")
    data = load_data(small_fashion, tmp_path)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (36, 4, 20)
    assert data.train.images.dtype == torch.uint8
    assert np.unique(data.train.labels).tolist() == list(range(10))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sizes": {"train": 39, "test": 20}}, r"but there are \{'train': 40, 'test': 20\}"),
        ({"channels": 3, "mean": None, "std": None}, "but the images have 1"),
        ({"num_classes": 9}, "but there are 10 classes"),
        ({"checksum": "0" * 64}, "other data than dataset.checksum=00000000"),
    ],
)
def test_data_other_than_described_are_refused(keys, message, small_fashion, tmp_path, write_fashion):
    write_fashion(tmp_path / "fashion_mnist")
    with pytest.raises(DataError, match=message):
        load_data(small_fashion | keys, tmp_path)


def test_values_are_checked_before_files_are_looked_for(small_fashion, tmp_path):
    with pytest.raises(ConfigError, match="image_size"):
        load_data(small_fashion | {"image_size": 0, "root": str(tmp_path)}, tmp_path)


def test_bundled_digits_are_the_ones_their_checksum_names(config_of, tmp_path):
    assert config_of("digits")["checksum"] is not None
    load_data(config_of("digits"), tmp_path)


def test_fraction_keeps_a_stratified_part_and_leaves_validation_alone(config_of, tmp_path):
    half, full = (load_data(config_of("digits", fraction=part), tmp_path) for part in (0.5, None))
    assert len(half.train) == half.spec.train_size == 647
    assert ((half.train.labels.bincount() - full.train.labels.bincount() / 2).abs() <= 1).all()
    assert half.val is not None
    assert full.val is not None
    assert torch.equal(half.val.index, full.val.index)
    sized = load_data(config_of("digits", train_size=647), tmp_path)
    assert torch.equal(half.train.index, sized.train.index)


NOISE = {"kind": "label_noise", "version": 1, "rate": 0.4, "seed": 0}
TAIL = {"kind": "imbalance", "version": 1, "factor": 10.0, "seed": 0}


def test_noise_changes_training_labels_and_nothing_else(config_of, tmp_path):
    clean, noisy = (load_data(config_of("digits", corruption=kind), tmp_path) for kind in ({"kind": "none"}, NOISE))
    assert clean.val is not None
    assert noisy.val is not None
    for before, after in ((clean.val, noisy.val), (clean.test, noisy.test)):
        assert torch.equal(before.labels, after.labels)
        assert torch.equal(before.images, after.images)
    assert torch.equal(clean.train.images, noisy.train.images)
    assert (clean.train.labels != noisy.train.labels).sum() == round(0.4 * 1294)
    assert noisy.spec.labels is not None
    assert torch.equal(noisy.spec.labels[noisy.train.index], noisy.train.labels)


def test_imbalance_shortens_training_and_nothing_else(config_of, tmp_path):
    clean, tail = (load_data(config_of("digits", corruption=kind), tmp_path) for kind in ({"kind": "none"}, TAIL))
    assert tail.val is not None
    assert clean.val is not None
    assert torch.equal(tail.val.labels, clean.val.labels)
    assert len(tail.test) == len(clean.test)
    assert tail.spec.train_size == len(tail.train) < len(clean.train) / 2
    sizes = tail.train.labels.bincount()
    assert 9 < sizes[0] / sizes[9] < 11
    assert torch.equal(clean.train.images[torch.isin(clean.train.index, tail.train.index)], tail.train.images)


def test_the_plan_s_size_of_a_long_tail_is_near_and_the_loaded_one_exact(config_of, tmp_path):
    config = config_of("digits", corruption=TAIL | {"factor": 1.5})
    planned, loaded = describe(config).train_size, load_data(config, tmp_path)
    assert planned != loaded.spec.train_size == len(loaded.train)
    assert abs(planned - len(loaded.train)) < 20


def test_cifar_is_loaded_in_either_form_and_known_by_its_content(config_of, tmp_path, write_cifar):
    for binary in (False, True):
        write_cifar(tmp_path / str(binary), "cifar100", binary=binary)
    one, other = (
        load_data(config_of("cifar100", root=str(tmp_path / str(binary))), tmp_path) for binary in (False, True)
    )
    assert (len(one.train), len(one.test)) == (180, 100)
    assert torch.equal(one.train.images, other.train.images)
    assert torch.equal(one.train.labels, other.train.labels)
    assert one.spec.class_names[0] == "apple"


def test_a_folder_of_images_is_loaded_with_its_class_names(config_of, tmp_path, write_images):
    write_images(tmp_path / "train", "cat", "dog", "emu")
    write_images(tmp_path / "val", "cat", "emu", count=3)
    data = load_data(config_of("imagefolder", root=str(tmp_path), image_size=4), tmp_path)
    assert data.spec.class_names == ("cat", "dog", "emu")
    assert (data.spec.num_classes, data.spec.input_shape) == (3, (3, 4, 4))
    assert (len(data.train), len(data.test)) == (27, 6)
    assert data.test.labels.tolist() == [0, 0, 0, 2, 2, 2]
    assert (data.test.images[3:, 0] == 60).all(), "the second class of this part, by colour"


def test_a_folder_that_changed_since_the_plan_is_refused(config_of, tmp_path, write_images):
    write_images(tmp_path, "cat", "dog")
    planned = complete(config_of("imagefolder", root=str(tmp_path), image_size=4), tmp_path)
    (tmp_path / "cat" / "000.png").rename(tmp_path / "cat" / "new.png")
    read_survey.cache_clear()  # as in another process
    with pytest.raises(DataError, match=r"other data than dataset\.checksum"):
        load_data(planned, tmp_path)
