import subprocess
import sys
from pathlib import Path

import pytest

from kdbench.core.errors import ConfigError, DataError
from kdbench.data import catalog
from kdbench.data.arrays import READERS
from kdbench.data.catalog import AUGMENTS, SOURCES, Source, describe, locate
from kdbench.data.views import VIEWS


def test_catalog_leaves_torch_unimported():
    code = "import sys, kdbench.data.catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_catalog_names_what_is_built():
    assert set(SOURCES) == set(READERS)
    assert set(AUGMENTS) == set(VIEWS)


@pytest.mark.parametrize("reader", ["digits", "fake"])
def test_data_that_come_with_kdbench_need_no_folder(reader, tmp_path):
    assert locate(reader, None, tmp_path) is None


@pytest.fixture
def system(monkeypatch, tmp_path) -> Path:
    """Stands in for the folder of the operating system's package."""
    folder = tmp_path / "system"
    source = SOURCES["fashion_mnist"]
    here = Source(source.files, source.folders, (str(folder),), source.fix)
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
        ("augment", "crop-flip", "did you mean 'crop_flip'?"),
        ("num_classes", 1, "must be 2 or more"),
        ("channels", 0, "must be 1 or more"),
        ("image_size", 0, "must be 1 or more"),
        ("padding", -1, "must be 0 or more"),
        ("sizes", {"train": 1438, "test": 9}, "dataset.sizes.test=9"),
        ("mean", [0.5, 0.5], "one number per channel"),
        ("val_fraction", 1.0, r"must be in \[0, 1\)"),
        ("val_fraction", -0.1, r"must be in \[0, 1\)"),
        ("val_fraction", 0.0001, "selects no image"),
        ("val_fraction", 0.9999, "0 images are left"),
        ("train_size", 0, r"must be in \[1, 1294\]"),
        ("train_size", 1295, r"must be in \[1, 1294\]"),
    ],
)
def test_value_out_of_range_is_an_error_naming_the_key(key, value, message, config_of):
    with pytest.raises(ConfigError, match=message):
        describe(config_of("digits", **{key: value}))


def test_every_wrong_value_has_its_line(config_of):
    with pytest.raises(ConfigError) as error:
        describe(config_of("digits", padding=-1, val_fraction=2, augment="x"))
    assert len(error.value.problems) == 3
