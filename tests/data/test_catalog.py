import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kdbench.core.errors import ConfigError, DataError
from kdbench.data import catalog
from kdbench.data.albums import ALBUMS
from kdbench.data.arrays import READERS
from kdbench.data.catalog import KEYS, describe, locate
from kdbench.data.mixing import MIXES
from kdbench.data.sources import SOURCES
from kdbench.data.view_options import MIX_OPTIONS, VIEW_OPTIONS
from kdbench.data.views import VIEWS


def test_catalog_leaves_torch_unimported():
    code = "import sys, kdbench.data.catalog, kdbench.data.survey; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_catalog_names_what_is_built():
    assert set(SOURCES) == {*READERS, *ALBUMS}
    assert list(VIEW_OPTIONS) == list(VIEWS)
    assert list(MIX_OPTIONS) == list(MIXES)


@pytest.mark.parametrize("reader", ["digits", "fake"])
def test_data_that_come_with_kdbench_need_no_folder(reader, tmp_path):
    assert locate(reader, None, tmp_path) is None


@pytest.fixture
def system(monkeypatch, tmp_path) -> Path:
    """Stands in for the folder of the operating system's package."""
    folder = tmp_path / "system"
    here = replace(SOURCES["fashion_mnist"], system=(str(folder),))
    monkeypatch.setattr(catalog, "SOURCES", {"fashion_mnist": here})
    return folder


@pytest.mark.parametrize("layout", ["FashionMNIST/raw", "fashion_mnist"])
@pytest.mark.parametrize("compressed", [True, False])
def test_data_dir_comes_before_the_system(layout, compressed, tmp_path, system, write_fashion):
    write_fashion(system)
    write_fashion(tmp_path / layout, compressed=compressed)
    assert locate("fashion_mnist", None, tmp_path) == tmp_path / layout


def test_system_place_is_found_when_data_dir_is_not_there(tmp_path, system, write_fashion):
    write_fashion(system)
    assert locate("fashion_mnist", None, tmp_path / "nowhere") == system


@pytest.mark.parametrize("layout", ["", "FashionMNIST/raw"])
def test_root_is_found_directly_or_in_torchvision_layout(layout, tmp_path, system, write_fashion):
    write_fashion(system)
    write_fashion(tmp_path / "mine" / layout)
    assert locate("fashion_mnist", str(tmp_path / "mine"), tmp_path) == tmp_path / "mine" / layout


def test_root_is_the_only_place_looked_in(tmp_path, system, write_fashion):
    write_fashion(system)
    write_fashion(tmp_path / "fashion_mnist")
    with pytest.raises(DataError) as error:
        locate("fashion_mnist", str(tmp_path / "mine"), tmp_path)
    assert str(tmp_path / "mine") in str(error.value)
    assert str(system) not in str(error.value)


def test_missing_files_are_reported_in_one_line_with_places_and_fixes(tmp_path, system, write_fashion):
    write_fashion(system)
    (system / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError) as error:
        locate("fashion_mnist", None, tmp_path)
    line = str(error.value)
    assert "\n" not in line
    assert f"{system} (lacks t10k-labels-idx1-ubyte)" in line
    for part in (str(tmp_path / "FashionMNIST/raw"), "dataset-fashion-mnist", "dataset.root=", "KDBENCH_DATA"):
        assert part in line


@pytest.mark.parametrize(
    ("name", "shape", "train_size"),
    [("digits", (1, 8, 8), 1294), ("fashion_mnist", (1, 28, 28), 54000), ("fake", (3, 32, 32), 900)],
)
def test_describe_gives_shape_and_size_after_the_split(name, shape, train_size, config_of):
    spec = describe(config_of(name))
    assert (spec.name, spec.num_classes, spec.input_shape, spec.train_size) == (name, 10, shape, train_size)
    assert len(spec.mean) == len(spec.std) == (0 if name == "fake" else 1)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("reader", "digit", "did you mean 'digits'?"),
        ("augment", {"crop-flip": {}}, "did you mean 'crop_flip'?"),
        ("num_classes", 1, "must be 2 or more"),
        ("channels", 0, "must be 1 or more"),
        ("image_size", 0, "must be 1 or more"),
        ("augment", {"crop": {"padding": -1}}, "must be 0 or more"),
        ("sizes", {"train": 1438, "test": 0}, "dataset.sizes.test=0"),
        ("mean", [0.5, 0.5], "one number per channel"),
        ("val_fraction", 1.0, r"must be in \[0, 1\)"),
        ("val_fraction", -0.1, r"must be in \[0, 1\)"),
        ("val_fraction", 0.0001, "selects no image"),
        ("val_fraction", 0.9999, "0 images are left"),
        ("train_size", 0, r"must be in \[1, 1294\]"),
        ("train_size", 1295, r"must be in \[1, 1294\]"),
        ("train_size", "all", "a whole number is expected"),
        ("num_classes", "ten", "must be 2 or more"),
        ("num_classes", None, "give dataset.num_classes"),
        ("fraction", 0, r"must be in \(0, 1\]"),
        ("fraction", 1.1, r"must be in \(0, 1\]"),
        ("fraction", "half", r"must be in \(0, 1\]"),
        ("fraction", 0.0001, "keeps none of the 1294 images"),
    ],
)
def test_value_out_of_range_is_an_error_naming_the_key(key, value, message, config_of):
    with pytest.raises(ConfigError, match=message):
        describe(config_of("digits", **{key: value}))


def test_every_wrong_value_has_its_line(config_of):
    with pytest.raises(ConfigError) as error:
        describe(config_of("digits", image_size=0, val_fraction=2, augment={"x": {}}))
    assert len(error.value.problems) == 3


def test_fraction_and_train_size_together_are_an_error(config_of):
    with pytest.raises(ConfigError, match="give one"):
        describe(config_of("digits", fraction=0.5, train_size=100))


def test_a_yaml_without_a_key_is_an_error_naming_it(config_of):
    for key in KEYS:
        config = config_of("digits")
        del config[key]
        message = "which views" if key == "augment" else f"its YAML lacks {key}"
        with pytest.raises(ConfigError, match=message):
            describe(config)


def test_a_network_can_be_built_before_images_are_counted(config_of):
    spec = describe(config_of("cifar100"))
    assert (spec.num_classes, spec.input_shape, spec.train_size) == (100, (3, 32, 32), 0)
    assert spec.class_names[:2] == ("apple", "aquarium_fish")


def test_class_names_are_dropped_where_the_classes_are_others(config_of):
    assert describe(config_of("fashion_mnist")).class_names[-1] == "Ankle boot"
    assert describe(config_of("fashion_mnist", num_classes=11)).class_names == ()


def test_a_folder_of_images_must_be_named_and_be_there(tmp_path):
    assert locate("imagefolder", str(tmp_path), tmp_path) == tmp_path
    with pytest.raises(DataError, match=r"dataset\.root=FOLDER"):
        locate("imagefolder", None, tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        locate("imagefolder", str(tmp_path / "x"), tmp_path)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("layout", ["{}", "cifar100/{}"])
def test_both_forms_of_cifar_are_found(binary, layout, tmp_path, write_cifar):
    folder = tmp_path / layout.format("cifar-100-binary" if binary else "cifar-100-python")
    write_cifar(folder, "cifar100", binary=binary)
    assert locate("cifar100", None, tmp_path) == folder
    assert locate("cifar100", str(folder), tmp_path / "nowhere") == folder


def test_missing_cifar_names_the_three_ways_to_supply_it(tmp_path):
    with pytest.raises(DataError) as error:
        locate("cifar100", None, tmp_path)
    for way in ("kdbench data fetch cifar100", "dataset.root=FOLDER", "paths.data=FOLDER"):
        assert way in str(error.value)
