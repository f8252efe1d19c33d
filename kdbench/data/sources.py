"""Where the files of datasets may lie, what they are called, and where they are published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """One form in which a dataset's files come.

    Attributes:
        files: Names that must all be there.
        folders: Places below ``paths.data``, or below ``dataset.root``, torchvision's first.
        md5: MD5 of the published files, by name, where it is known.
        gzipped: Each file may also be there as ``.gz``.
    """

    files: tuple[str, ...]
    folders: tuple[str, ...]
    md5: Mapping[str, str]
    gzipped: bool = False

    def find(self, folder: Path, name: str) -> Path | None:
        """A file in ``folder``; ``None`` if it is not there."""
        paths = (folder / name, folder / f"{name}.gz") if self.gzipped else (folder / name,)
        return next((path for path in paths if path.exists()), None)


@dataclass(frozen=True)
class Archive:
    """A published file.

    Attributes:
        mirrors: Addresses that serve it, tried in order.
        md5: Of the file; what differs is refused.
        folder: Where it is put, or unpacked if it is a ``.zip`` or ``.tar.gz``, below ``paths.data``.
    """

    mirrors: tuple[str, ...]
    md5: str
    folder: str = "."

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.mirrors[0].rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Source:
    """Where the files of a reader come from.

    Attributes:
        layouts: Forms that the reader understands; none for data that need no files, or any folder.
        archives: What ``kdbench data fetch`` gets.
        system: Places where the operating system's packages put the files of the first layout.
        hint: Another way to get them, for the error line.
        any_folder: There is no usual place: the user must name a folder.
        photos: Images of any size, decoded one by one (:mod:`kdbench.data.albums`).
        hub: A library keeps them in a cache of its own, unless the user names a folder.
    """

    layouts: tuple[Layout, ...] = ()
    archives: tuple[Archive, ...] = ()
    system: tuple[str, ...] = ()
    hint: str = ""
    any_folder: bool = False
    photos: bool = False
    hub: bool = False


def _layout(folders: tuple[str, ...], *files: str, **md5: str) -> Layout:
    return Layout((*files, *md5), folders, md5)


FASHION_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_FASHION_MD5 = (  # of the published .gz files
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "25c81989df183df01b3e8a0aad5dffbe",
    "bef4ecab320f06d8554ea6380940ec79",
    "bb300cfdad3c16e7a12a480ee83cd310",
)
_FASHION_MIRROR = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_CIFAR = "https://www.cs.toronto.edu/~kriz"
_SVHN = "http://ufldl.stanford.edu/housenumbers"

SOURCES: Mapping[str, Source] = {
    "digits": Source(),
    "fake": Source(),
    "imagefolder": Source(any_folder=True, photos=True),
    "hf": Source(hub=True, photos=True),
    "imagenet": Source(
        layouts=(_layout(("imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC"), "train", "val"),),
        hint="ask for the archives at image-net.org and unpack them to train/SYNSET/ and val/SYNSET/, as "
        "torchvision.datasets.ImageNet does",
        photos=True,
    ),
    "fashion_mnist": Source(
        layouts=(
            Layout(FASHION_FILES, ("FashionMNIST/raw", "fashion_mnist"), {}, gzipped=True),  # often compressed anew
        ),
        archives=tuple(
            Archive((f"{_FASHION_MIRROR}/{name}.gz",), md5, "FashionMNIST/raw")
            for name, md5 in zip(FASHION_FILES, _FASHION_MD5, strict=True)
        ),
        system=("/usr/share/datasets/fashion-mnist",),
        hint="install the Debian package dataset-fashion-mnist",
    ),
    "cifar10": Source(
        layouts=(
            _layout(
                ("cifar-10-batches-py", "cifar10/cifar-10-batches-py", "cifar10"),
                data_batch_1="c99cafc152244af753f735de768cd75f",
                data_batch_2="d4bba439e000b95fd0a9bffe97cbabec",
                data_batch_3="54ebc095f3ab1f0389bbae665268c751",
                data_batch_4="634d18415352ddfa80567beed471001a",
                data_batch_5="482c414d41f54cd18b22e5b47cb7c3cb",
                test_batch="40351d587109b95175f43aff81a1287e",
            ),
            _layout(
                ("cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "cifar10"),
                *(f"data_batch_{number}.bin" for number in range(1, 6)),
                "test_batch.bin",
            ),
        ),
        archives=(Archive((f"{_CIFAR}/cifar-10-python.tar.gz",), "c58f30108f718f92721af3b95e74349a"),),
    ),
    "cifar100": Source(
        layouts=(
            _layout(
                ("cifar-100-python", "cifar100/cifar-100-python", "cifar100"),
                train="16019d7e3df5f24257cddd939b257f8d",
                test="f0ef6b0ae62326f3e7ffdfab6717acfc",
            ),
            _layout(("cifar-100-binary", "cifar100/cifar-100-binary", "cifar100"), "train.bin", "test.bin"),
        ),
        archives=(Archive((f"{_CIFAR}/cifar-100-python.tar.gz",), "eb9058c3a382ffc7106e4002c42a8d85"),),
    ),
    "svhn": Source(
        layouts=(
            Layout(
                ("train_32x32.mat", "test_32x32.mat"),
                (".", "svhn", "SVHN"),
                {
                    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
                    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
                },
            ),
        ),
        archives=(
            Archive((f"{_SVHN}/train_32x32.mat",), "e26dedcc434d2e4c54c9b2d4a06d8373", "svhn"),
            Archive((f"{_SVHN}/test_32x32.mat",), "eb5a983be6a315427106f1b164d9cef3", "svhn"),
        ),
    ),
    "stl10": Source(
        layouts=(
            Layout(
                ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"),
                ("stl10_binary", "stl10/stl10_binary", "stl10"),
                {
                    "train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
                    "train_y.bin": "5a34089d4802c674881badbb80307741",
                    "test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
                    "test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
                },
            ),
        ),
        archives=(
            Archive(("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",), "91f7769df0f17e558f3565bffb0c7dfb"),
        ),
    ),
    "tiny_imagenet": Source(
        layouts=(
            _layout(
                ("tiny-imagenet-200", "tiny_imagenet"), "wnids.txt", "words.txt", "train", "val/val_annotations.txt"
            ),
        ),
        archives=(Archive(("http://cs231n.stanford.edu/tiny-imagenet-200.zip",), "90528d7ca1a48142e341f4ef8d21d0de"),),
        photos=True,
    ),
}
