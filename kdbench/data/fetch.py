"""Published files over HTTP: resumed where a download broke off, checked, unpacked whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from kdbench.core.errors import UserError
from kdbench.data.sources import Archive

_CHUNK = 1 << 20
_SILENCE = 30  # seconds after which a server counts as gone
Report = Callable[[int, int | None], None]  # bytes so far, bytes in all if the server says


def md5_of(path: Path) -> str:
    """MD5 of a file: what datasets are published with; a guard against damage, not against malice."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def fetch(archive: Archive, data_dir: Path, *, mirrors: Sequence[str] = (), report: Report) -> Path:
    """Downloads a published file to where readers look for it.

    What arrived of a broken download stays beside it as ``.part`` and is gone on with the next time.

    Args:
        archive: What to get.
        data_dir: ``paths.data``; made if it is not there.
        mirrors: Addresses of folders of the user's, tried before the published ones.
        report: Called as bytes arrive.

    Returns:
        The folder in which the file lies, or was unpacked.

    Raises:
        UserError: No mirror gave the file that the MD5 belongs to; the line says why, and how to do it by hand.
    """
    folder = data_dir.expanduser() / archive.folder
    folder.mkdir(parents=True, exist_ok=True)
    file, part = folder / archive.name, folder / f"{archive.name}.part"
    if not (file.is_file() and md5_of(file) == archive.md5):
        failures = []
        for url in (*(f"{mirror.rstrip('/')}/{archive.name}" for mirror in mirrors), *archive.mirrors):
            try:
                _download(url, part, report)
            except (OSError, HTTPException, ValueError) as error:
                failures.append(f"{url} ({error})")
                continue
            if (found := md5_of(part)) == archive.md5:
                part.replace(file)
                break
            part.unlink()
            failures.append(f"{url} (another file: MD5 {found})")
        else:
            raise UserError(
                f"{archive.name} could not be fetched: {'; '.join(failures)}; type the command again, name another "
                f"folder with --mirror URL, or put it (MD5 {archive.md5}) into {folder} by hand and type it again"
            )
    if archive.name.endswith((".zip", ".tar.gz")):
        _unpack(file, folder)
        file.unlink()
    return folder


def _download(url: str, part: Path, report: Report) -> None:
    """Appends to ``part`` what it lacks, or begins anew where the server cannot do that."""
    if not url.startswith(("http://", "https://")):
        raise ValueError("not an address of the form http://... or https://...")
    have = part.stat().st_size if part.exists() else 0
    try:
        response = urlopen(Request(url, headers={"Range": f"bytes={have}-"} if have else {}), timeout=_SILENCE)
    except HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send: it was all there
            return
        raise
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        length = response.headers.get("Content-Length")
        total = file.tell() + int(length) if length else None
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            report(file.tell(), total)
        if total is not None and file.tell() < total:
            raise OSError(f"the connection ended after {file.tell()} of {total} bytes")


def _unpack(file: Path, folder: Path) -> None:
    """Unpacks beside the destination first, so that a half unpacked archive is never taken for a dataset.

    Raises:
        UserError: Something in the archive would land outside of the folder, or stands in the way.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as scratch:
        try:
            if file.suffix == ".zip":
                with zipfile.ZipFile(file) as archive:
                    archive.extractall(scratch)
            else:
                with tarfile.open(file) as archive:
                    _check_inside(archive, Path(scratch))
                    archive.extraction_filter = getattr(tarfile, "data_filter", None)
                    archive.extractall(scratch)
        except (tarfile.TarError, zipfile.BadZipFile) as error:
            raise UserError(f"{file}: cannot be unpacked ({error}); remove it and type the command again") from error
        for entry in sorted(os.listdir(scratch)):
            _move(Path(scratch) / entry, folder / entry)


def _check_inside(archive: tarfile.TarFile, folder: Path) -> None:
    """What Python's own filter does from 3.11.4 on, for those before: files and folders only, none outside."""
    for member in archive.getmembers():
        inside = (folder / member.name).resolve().is_relative_to(folder.resolve())
        if not (inside and (member.isfile() or member.isdir())):
            raise tarfile.TarError(f"{member.name} is no file or folder inside of it")


def _move(path: Path, target: Path) -> None:
    """At once where nothing is in the way, else file by file; nothing that lies there is lost but what it replaces."""
    if path.is_dir() and target.is_dir():
        for child in sorted(path.iterdir()):
            _move(child, target / child.name)
    else:
        path.replace(target)
