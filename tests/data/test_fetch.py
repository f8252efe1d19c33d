import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from data_toy import Server

from kdbench.core.errors import UserError
from kdbench.data.fetch import fetch
from kdbench.data.sources import Archive

CONTENT = bytes(range(256)) * 20_000


def get(archive: Archive, folder: Path, *mirrors: str) -> Path:
    return fetch(archive, folder, mirrors=mirrors, report=lambda done, total: None)


def test_a_file_is_put_where_readers_look_for_it(server: Server, tmp_path: Path) -> None:
    reports: list[tuple[int, int | None]] = []
    archive = server.archive("train.mat", CONTENT, "svhn")
    fetch(archive, tmp_path / "data", report=lambda done, total: reports.append((done, total)))
    assert (tmp_path / "data" / "svhn" / "train.mat").read_bytes() == CONTENT
    assert [file.name for file in (tmp_path / "data" / "svhn").iterdir()] == ["train.mat"]
    assert reports[-1] == (len(CONTENT), len(CONTENT))


def test_a_broken_download_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    archive = server.archive("x.mat", CONTENT)
    server.cut = 3_000_000
    with pytest.raises(UserError, match=r"the connection ended after 3000000 of 5120000 bytes.*type the command again"):
        get(archive, tmp_path)
    assert (tmp_path / "x.mat.part").stat().st_size == 3_000_000
    server.cut = None
    get(archive, tmp_path)
    assert server.asked == [("/good/x.mat", None), ("/good/x.mat", "bytes=3000000-")]
    assert (tmp_path / "x.mat").read_bytes() == CONTENT


def test_a_server_that_cannot_send_parts_is_asked_for_all(server: Server, tmp_path: Path) -> None:
    archive = server.archive("x.mat", CONTENT)
    server.ranges = False
    (tmp_path / "x.mat.part").write_bytes(b"old")
    get(archive, tmp_path)
    assert (tmp_path / "x.mat").read_bytes() == CONTENT


def test_a_download_that_was_complete_is_only_checked(server: Server, tmp_path: Path) -> None:
    archive = server.archive("x.mat", CONTENT)
    (tmp_path / "x.mat.part").write_bytes(CONTENT)
    get(archive, tmp_path)
    assert (tmp_path / "x.mat").read_bytes() == CONTENT


def test_a_file_put_there_by_hand_needs_no_network(server: Server, tmp_path: Path) -> None:
    archive = server.archive("x.mat", CONTENT)
    (tmp_path / "x.mat").write_bytes(CONTENT)
    get(archive, tmp_path)
    assert server.asked == []


def test_mirrors_are_tried_in_order_the_user_s_first(server: Server, tmp_path: Path) -> None:
    archive = server.archive("x.mat", CONTENT)
    get(archive, tmp_path, f"{server.url}/bad/", f"{server.url}/good")
    assert [path for path, _ in server.asked] == ["/bad/x.mat", "/good/x.mat"]
    assert len(server.asked) == 2


def test_another_file_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    archive = server.archive("x.mat", CONTENT)
    server.files["x.mat"] = CONTENT[:-1] + b"!"
    with pytest.raises(UserError, match="another file: MD5"):
        get(archive, tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_a_network_the_line_names_every_address_and_the_way_by_hand(tmp_path: Path, server: Server) -> None:
    archive = server.archive("x.mat", CONTENT, where="bad")
    with pytest.raises(UserError) as error:
        get(archive, tmp_path, "ftp://elsewhere", "http://127.0.0.1:1")
    for part in ("ftp://elsewhere/x.mat (not an address", "http://127.0.0.1:1/x.mat (", "/bad/x.mat (HTTP Error 404",
                 "--mirror URL", str(tmp_path), archive.md5):  # fmt: skip
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def tar(*names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"new"))
    return buffer.getvalue()


def test_archives_are_unpacked_and_gone(server: Server, tmp_path: Path) -> None:
    get(server.archive("a.tar.gz", tar("a/one", "a/two")), tmp_path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("b/one", "new")
    get(server.archive("b.zip", buffer.getvalue()), tmp_path)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["a/one", "a/two", "b/one"]


def test_unpacking_replaces_what_is_incomplete_and_leaves_the_rest(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("one", "mine"):
        (tmp_path / "a" / name).write_text("old")
    get(server.archive("a.tar.gz", tar("a/one", "a/two")), tmp_path)
    assert {path.name: path.read_text() for path in (tmp_path / "a").iterdir()} == {
        "one": "new",
        "two": "new",
        "mine": "old",
    }


@pytest.mark.parametrize("content", [tar("../out"), b"no archive"], ids=["outside", "damaged"])
def test_an_archive_that_reaches_outside_or_is_damaged_leaves_nothing(
    content: bytes, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="cannot be unpacked"):
        get(server.archive("a.tar.gz", content), tmp_path / "in")
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "a.tar.gz"]
