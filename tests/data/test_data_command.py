import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from data_toy import Server

from kdbench.cli import main
from kdbench.data import catalog, sources


class Ran:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, " ".join(out.split()), err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> Ran:
        return Ran(main(arguments), *capsys.readouterr())

    return call


def test_check_of_missing_data_says_where_and_how_with_status_2(run: Any, tmp_path: Path) -> None:
    ran = run("data", "check", "cifar100")
    assert ran.status == 2
    for part in (
        str(tmp_path / "data" / "cifar-100-python"),
        "kdbench data fetch cifar100",
        "dataset.root=",
        "paths.data=",
    ):
        assert part in ran.err


def test_check_of_files_that_are_not_the_published_ones_says_so(run: Any, tmp_path: Path, write_cifar: Any) -> None:
    write_cifar(tmp_path / "cifar-100-python", "cifar100")
    ran = run("data", "check", "cifar100", f"paths.data={tmp_path}")
    assert ran.status == 1
    assert "train 617k differs from the published 16019d7e3df5f24257cddd939b257f8d" in ran.out
    assert "cifar100: 180 train, 20 validation, 100 test images, 100 classes" in ran.out


def test_check_of_published_files_is_quiet_about_them(
    run: Any, tmp_path: Path, write_cifar: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    write_cifar(folder, "cifar100")
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    layout = replace(sources.SOURCES["cifar100"].layouts[0], md5=md5)
    monkeypatch.setitem(catalog.SOURCES, "cifar100", replace(sources.SOURCES["cifar100"], layouts=(layout,)))
    ran = run("data", "check", "cifar100", f"dataset.root={folder}")
    assert ran.status == 0
    assert ran.out.count("as published") == 2


def test_check_reads_everything_as_a_training_would(run: Any, tmp_path: Path, write_images: Any) -> None:
    write_images(tmp_path, "cat", "dog")
    assert run("data", "check", "imagefolder", f"dataset.root={tmp_path}", "dataset.image_size=8").status == 0
    (tmp_path / "dog" / "003.png").write_text("no image")
    ran = run("data", "check", "imagefolder", f"dataset.root={tmp_path}", "dataset.image_size=9")
    assert ran.status == 2
    assert "003.png: cannot be read as an image" in ran.err


def test_check_of_bundled_data(run: Any) -> None:
    ran = run("data", "check", "digits")
    assert (ran.status, ran.err) == (0, "")
    assert "1,294 train, 144 validation, 359 test images, 10 classes; come with kdbench" in ran.out


def test_fetch_brings_what_a_training_finds(
    run: Any, tmp_path: Path, write_cifar: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path / "cifar-100-python", "cifar100")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(tmp_path / "cifar-100-python", "cifar-100-python")
    served = server.archive("cifar-100-python.tar.gz", buffer.getvalue())
    nowhere = replace(served, mirrors=("http://127.0.0.1:1/cifar-100-python.tar.gz",))
    monkeypatch.setitem(catalog.SOURCES, "cifar100", replace(sources.SOURCES["cifar100"], archives=(nowhere,)))
    here = f"paths.data={tmp_path / 'data'}"
    failed = run("data", "fetch", "cifar100", here)
    assert failed.status == 1
    assert "could not be fetched" in failed.err
    fetched = run("data", "fetch", "cifar100", here, "--mirror", f"{server.url}/good")
    assert fetched.status == 0
    assert f"cifar100 is there: {tmp_path / 'data' / 'cifar-100-python'}" in fetched.out
    asked = len(server.asked)
    assert "is there already" in run("data", "fetch", "cifar100", here).out
    assert len(server.asked) == asked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fetch", "digits"], "there is nothing to fetch"),
        (["fetch", "imagefolder"], "there is nothing to fetch"),
        (["fetch", "cifar10", "dataset.root=x"], "files are fetched into paths.data=DIR"),
        (["check", "cifar"], "did you mean 'cifar10'"),
        (["check"], "kdbench data check --help"),
        (["find", "cifar10"], "invalid choice"),
    ],
)
def test_a_wrong_command_is_status_2(arguments: list[str], message: str, run: Any) -> None:
    ran = run("data", *arguments)
    assert ran.status == 2
    assert message in ran.err
