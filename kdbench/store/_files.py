"""Files that are either old or new, never half: atomic writes, checksums, formats, and what disk errors mean."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from kdbench.core.errors import StoreError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


class Checksum(NamedTuple):
    """What a file must be.

    Attributes:
        bytes: Its size.
        sha256: Hash of its content, 64 hexadecimal digits.
    """

    bytes: int
    sha256: str


def checksum_of(path: Path) -> Checksum:
    """Size and hash of a file, read in pieces."""
    with path.open("rb") as file:
        return Checksum(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def encode_json(value: Mapping[str, Any]) -> bytes:
    """JSON for people: indented, keys as given.

    Raises:
        ValueError: A number is NaN or infinite, which JSON has no word for.
    """
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def encode_history(rows: Sequence[Mapping[str, float | None]]) -> bytes:
    """CSV with one column per key that any row has; what a row lacks is an empty cell, every float is exact."""
    text = io.StringIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: repr(float(cell)) for key, cell in row.items() if cell is not None} for row in rows)
    return text.getvalue().encode()


def decode_history(data: bytes) -> list[dict[str, float]]:
    """Inverse of :func:`encode_history`; an empty cell gives no key."""
    rows = csv.DictReader(io.StringIO(data.decode()))
    return [{key: float(cell) for key, cell in row.items() if cell} for row in rows]


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def touched(path: Path) -> float:
    """When anything in a folder last changed, in seconds since the epoch."""
    return max(file.stat().st_mtime for file in (path, *path.rglob("*")))


def sync_folder(path: Path) -> None:
    """Makes the names in a folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def probe(folder: Path) -> None:
    """Creates a folder and a nameless file in it: fails where a training would fail, only sooner."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def protect(path: Path) -> None:
    """Takes away every right to write."""
    path.chmod(path.stat().st_mode & ~0o222)


def write_atomically(path: Path, writer: Callable[[BinaryIO], object]) -> None:
    """Replaces a file by what ``writer`` writes; at any failure the old one stays as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            writer(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def discard(path: Path, trash: Path) -> None:
    """Removes a folder, first by name and then by content, so that half a folder is never taken for a whole one."""
    path.chmod(0o700)  # moving a folder to another parent needs the right to write into the folder itself
    trash.mkdir(parents=True, exist_ok=True)
    doomed = trash / f"{path.name}.{time.time_ns()}"
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)  # what stays is in the trash: the next gc removes and reports it


@contextmanager
def explained(root: Path) -> Iterator[None]:
    """Turns the errors of a disk into one line with the fix.

    Raises:
        StoreError: The disk or quota is full, the store is read-only, or anything else the system refuses.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):  # torch.save raises a RuntimeError above it
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise StoreError(_explanation(root, cause)) from error


def _explanation(root: Path, error: OSError) -> str:
    if error.errno in _FULL:
        return (
            f"{root} is full ({error.strerror}): free space and type the same command again, it continues from the "
            "last checkpoint; or set paths.outputs=DIR to start anew on another disk"
        )
    if error.errno in _FORBIDDEN:
        return (
            f"{root} cannot be written ({error.strerror}): what it holds can be used, but nothing can be trained "
            "into it; set paths.outputs=DIR to a folder of your own"
        )
    return f"{root}: {error}; type the same command again once the disk is well, what was finished stays"
