from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdbench.core.errors import DataError
from kdbench.data import photos
from kdbench.data.folders import Listing, list_folder, list_tiny_imagenet
from kdbench.data.load import load_data
from kdbench.data.photos import FilePhotos, check_memory, fitted
from kdbench.data.stream import Stream

ANY = {"test_folder": None}


def read_image(path: Path, channels: int, size: int) -> np.ndarray:
    photo = FilePhotos(path.parent, np.array([path.name.encode()]), np.array([0]))
    return fitted(photo.open(0, "L" if channels == 1 else "RGB"), size).transpose(2, 0, 1)


def labels_of(listing: Listing, part: str) -> list[int]:
    return [label for _, label in getattr(listing, part)]


@pytest.mark.parametrize("part", ["test", "val"])
def test_the_part_beside_train_is_the_test_set(part: str, tmp_path: Path, write_images: Any) -> None:
    write_images(tmp_path / "train", "b", "a", "c", count=3)
    write_images(tmp_path / part, "c", "a", count=2)
    listing = list_folder(ANY, tmp_path)
    assert listing.classes == ("a", "b", "c")
    assert labels_of(listing, "train") == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert listing.test == ((f"{part}/a/000.png", 0), (f"{part}/a/001.png", 0), (f"{part}/c/000.png", 2),
                            (f"{part}/c/001.png", 2))  # fmt: skip


def test_with_test_and_val_the_user_says_which(tmp_path: Path, write_images: Any) -> None:
    for part in ("train", "val", "test"):
        write_images(tmp_path / part, "a", "b", count=2)
    with pytest.raises(DataError, match=r"has test and val; .*dataset\.test_folder=test"):
        list_folder(ANY, tmp_path)
    assert list_folder({"test_folder": "val"}, tmp_path).test[0] == ("val/a/000.png", 0)
    with pytest.raises(DataError, match=r"dataset\.test_folder=tset: no such folder"):
        list_folder({"test_folder": "tset"}, tmp_path)


@pytest.mark.parametrize("below", ["", "train"])
def test_without_a_test_set_a_fifth_of_each_class_becomes_it(below: str, tmp_path: Path, write_images: Any) -> None:
    write_images(tmp_path / below, "a", count=10)
    write_images(tmp_path / below, "b", count=20)
    listing = list_folder(ANY, tmp_path)
    assert listing.sizes == {"train": 24, "test": 6}
    assert labels_of(listing, "test") == [0, 0, 1, 1, 1, 1]
    assert not {*listing.train} & {*listing.test}


def test_that_fifth_is_the_same_elsewhere_and_stays_when_classes_join(tmp_path: Path, write_images: Any) -> None:
    for place in ("one", "other"):
        write_images(tmp_path / place, "a", "b")
    write_images(tmp_path / "other", "0")
    one, other = (list_folder(ANY, tmp_path / place) for place in ("one", "other"))
    assert [path for path, _ in one.test] == [path for path, _ in other.test if not path.startswith("0/")]


def test_only_images_count_however_deep(tmp_path: Path, write_images: Any) -> None:
    write_images(tmp_path / "train", "a", "b", count=1)
    write_images(tmp_path / "train" / "a", "deep", count=1, suffix=".JPEG")
    write_images(tmp_path / "test", "a", "b", count=1)
    (tmp_path / "train" / "a" / "notes.txt").write_text("x")
    (tmp_path / "train" / "a" / ".hidden.png").write_text("x")
    (tmp_path / "train" / ".cache").mkdir()
    assert list_folder(ANY, tmp_path).train == (("train/a/000.png", 0), ("train/a/deep/000.JPEG", 0),
                                                ("train/b/000.png", 1))  # fmt: skip


def test_folders_without_a_meaning_are_errors(tmp_path: Path, write_images: Any) -> None:
    with pytest.raises(DataError, match="has no subfolders"):
        list_folder(ANY, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="0 images to train on"):
        list_folder(ANY, tmp_path)
    write_images(tmp_path / "x" / "test", "a")
    with pytest.raises(DataError, match="has test/ but no train/"):
        list_folder(ANY, tmp_path / "x")
    write_images(tmp_path / "x" / "train", "b")
    (tmp_path / "x" / "train" / "hollow").mkdir()
    with pytest.raises(DataError, match="no such class in train/: a"):
        list_folder(ANY, tmp_path / "x")
    write_images(tmp_path / "x" / "train", "a")
    with pytest.raises(DataError, match="no images to train on of hollow; add some, or remove the folder"):
        list_folder(ANY, tmp_path / "x")


def test_manifest_sees_names_sizes_and_classes_but_not_the_place(tmp_path: Path, write_images: Any) -> None:
    def manifest(place: str) -> str:
        return list_folder(ANY, tmp_path / place).manifest()

    for place in "abcd":
        write_images(tmp_path / place, "cat", "dog")
    assert manifest("a") == manifest("b")
    (tmp_path / "b" / "cat" / "000.png").rename(tmp_path / "b" / "cat" / "x.png")
    with (tmp_path / "c" / "cat" / "000.png").open("ab") as file:
        file.write(b"0")
    (tmp_path / "d" / "cat").rename(tmp_path / "d" / "cow")
    assert len({manifest(place) for place in "abcd"}) == 4


@pytest.mark.parametrize("size", [(8, 8), (40, 20), (20, 41), (7, 6)])
def test_images_are_scaled_by_the_shorter_side_and_cut_in_the_middle(size: tuple[int, int], tmp_path: Path) -> None:
    width, height = size
    ramp = np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8), (height, width))
    Image.fromarray(np.stack([ramp, np.zeros_like(ramp), np.full_like(ramp, 9)], 2)).save(tmp_path / "x.png")
    pixels = read_image(tmp_path / "x.png", 3, 8)
    assert (pixels.shape, pixels.dtype) == ((3, 8, 8), np.uint8)
    assert (pixels[1] == 0).all()
    assert (pixels[2] == 9).all()
    row = pixels[0, 0].astype(int)
    assert (np.diff(row) > 0).all()
    assert abs(row.mean() - 127.5) < 255 / 8, "the middle, not a corner"
    assert (row[-1] - row[0] < 160) == (width > 1.5 * height), "cut, not squeezed"


def test_any_mode_becomes_colour_or_grey(tmp_path: Path) -> None:
    for mode in ("L", "RGB", "RGBA", "P", "CMYK", "1"):
        Image.new(mode, (5, 5)).save(tmp_path / f"{mode}.tiff")
        assert read_image(tmp_path / f"{mode}.tiff", 3, 4).shape == (3, 4, 4)
        assert read_image(tmp_path / f"{mode}.tiff", 1, 4).shape == (1, 4, 4)


@pytest.mark.parametrize("keep", [0, 20, 60, -30])
def test_a_damaged_image_is_an_error_naming_it(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.effect_noise((30, 30), 50).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"x\.png: cannot be read as an image"):
        read_image(path, 3, 8)


def test_pixels_lie_in_the_order_of_their_labels(tmp_path: Path, write_images: Any, config_of: Any) -> None:
    write_images(tmp_path, "a", "b", "c")
    data = load_data(config_of("imagefolder", root=str(tmp_path), image_size=4), tmp_path)
    for part in (data.train, data.test):
        assert part.images.shape[1:] == (3, 4, 4)
        assert torch.equal(part.images[:, 0, 0, 0].long(), 60 * part.labels)


def test_images_that_do_not_fit_are_refused_before_they_are_decoded(
    tmp_path: Path, write_images: Any, config_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, "a", "b")
    monkeypatch.setattr(photos, "memory", lambda: 20 * 3 * 64**2 * 10 // 4)
    keys = {"root": str(tmp_path), "mean": [0.5] * 3, "std": [0.5] * 3}
    assert len(load_data(config_of("imagefolder", image_size=64, in_memory=True, **keys), tmp_path).test) == 4
    monkeypatch.setattr(FilePhotos, "open", None)
    assert isinstance(load_data(config_of("imagefolder", image_size=65, **keys), tmp_path).train.images, Stream)
    with pytest.raises(DataError, match=r"dataset\.image_size=65: 20 images .*; .* dataset\.image_size=6\d fits"):
        load_data(config_of("imagefolder", image_size=65, in_memory=True, **keys), tmp_path)


def test_the_size_that_is_proposed_fits() -> None:
    with pytest.raises(DataError) as error:
        check_memory(10**9, 3, 224)
    check_memory(10**9, 3, int(str(error.value).rsplit("image_size=", 1)[1].split()[0]))


def write_tiny(root: Path, write_images: Any) -> None:
    for number, name in enumerate(("n02", "n01")):
        write_images(root / "train" / name, "images", suffix=f"_{number}.JPEG")
    write_images(root / "val", "images", count=3, suffix=".JPEG")
    (root / "val" / "val_annotations.txt").write_text(
        "".join(f"{image:03}.JPEG\t{name}\t0\t0\t1\t1\n" for image, name in enumerate(("n02", "n01", "n02")))
    )
    (root / "words.txt").write_text("n01\tgoldfish, Carassius\nn02\tbullfrog, frog\nn03\tdog\n")


def test_tiny_imagenet_takes_test_classes_from_the_annotations(tmp_path: Path, write_images: Any) -> None:
    write_tiny(tmp_path, write_images)
    listing = list_tiny_imagenet(ANY, tmp_path)
    assert listing.classes == ("goldfish", "bullfrog")
    assert listing.sizes == {"train": 20, "test": 3}
    assert listing.train[0] == ("train/n01/images/000_1.JPEG", 0)
    assert listing.test == (("val/images/000.JPEG", 1), ("val/images/001.JPEG", 0), ("val/images/002.JPEG", 1))


@pytest.mark.parametrize("line", ["009.JPEG\tn01\n", "000.JPEG\tn09\n", "000.JPEG\n"])
def test_tiny_imagenet_with_wrong_annotations_is_an_error(line: str, tmp_path: Path, write_images: Any) -> None:
    write_tiny(tmp_path, write_images)
    (tmp_path / "val" / "val_annotations.txt").write_text(line)
    with pytest.raises(DataError, match="is not there"):
        list_tiny_imagenet(ANY, tmp_path)
