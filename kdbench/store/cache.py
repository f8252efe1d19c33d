"""Outputs of stored networks, which can be computed again at any time: written once, checked when opened, shared.

One safetensors file for each pass of a network over some samples, below ``ab/abcdef...`` as in the store: one row per
sample, memory-mapped, so that parallel processes share one copy. A file appears by one rename.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from kdbench.core.errors import StoreError
from kdbench.core.recipe import canonical
from kdbench.core.signals import raise_if_stopped
from kdbench.store._files import explained, protect, size_of, write_atomically
from kdbench.store.store import Garbage

if TYPE_CHECKING:
    from torch import Tensor

_DAY = 86400  # seconds
_PATIENCE = 0.5  # seconds between looks for a signal while waiting
_SUFFIX = ".safetensors"


class StaleCacheError(StoreError):
    """A file is not what was asked for, or not what was written; it can be computed again."""


class OutputCache:
    """Rows of tensors by the digest of the network that gave them and a name.

    Args:
        root: Its folder; created by the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, digest: str, name: str, facts: Mapping[str, Any]) -> tuple[dict[str, Tensor], str] | None:
        """The rows, memory-mapped, and the remark that was written with them; ``None`` if there are none.

        Raises:
            StaleCacheError: The file is damaged, or holds what other facts led to.
            StoreError: It cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        path = self._path(digest, name)
        if not path.is_file():
            return None
        try:
            with explained(self.root), safe_open(path, "pt") as file:
                written = file.metadata() or {}
                rows = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        except SafetensorError as error:
            raise StaleCacheError(f"{path}: damaged ({error})") from error
        if written.get("facts") != canonical(facts):
            raise StaleCacheError(f"{path}: made from something else than it is named for")
        if written.get("sha256") != _checksum(rows):
            raise StaleCacheError(f"{path}: changed since it was written (its checksum differs)")
        with suppress(OSError):
            os.utime(path)  # what is in use is not garbage
        return rows, written["remark"]

    def write(self, digest: str, name: str, facts: Mapping[str, Any], rows: Mapping[str, Tensor], remark: str) -> None:
        """Keeps rows, in place of what was there.

        Raises:
            StoreError: The disk is full or read-only.
        """
        from safetensors.torch import save

        data = save(dict(rows), {"facts": canonical(facts), "sha256": _checksum(rows), "remark": remark})
        path = self._path(digest, name)
        with explained(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: file.write(data))
            protect(path)

    @contextmanager
    def claim(self, digest: str, name: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """The right to compute rows, for one process at a time; ends with its process, however that ends.

        Raises:
            StoreError: The disk is full or read-only.
            Stopped: A signal asked for it while waiting.
        """
        lock = self._lock(self._path(digest, name))
        with explained(self.root):
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            mine = _acquire(lock, _PATIENCE)
            if not mine:
                on_wait()
            while not mine:
                raise_if_stopped()
                mine = _acquire(lock, _PATIENCE)
        try:
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

    def gc(self, known: Container[str], *, dry_run: bool = False, older_than_days: float = 7) -> list[Garbage]:
        """Removes what was not used lately, whose network is gone, or that a kill left half written.

        Args:
            known: Digests of the networks that are in the store.
            dry_run: Only tell.
            older_than_days: Age since the last use.

        Raises:
            StoreError: The disk cannot be written.
        """
        found: list[Garbage] = []
        with explained(self.root):
            for target in sorted({_target(path) for path in self.root.glob("??/*/*") if path.is_file()}):
                lock = self._lock(target)
                if not _acquire(lock, 0):
                    continue
                for path in (target, *target.parent.glob(f".{target.name}.*.tmp")):
                    if path.is_file() and (reason := _useless(path, known, older_than_days)):
                        found.append(Garbage(path, size_of(path), reason))
                        if not dry_run:
                            path.unlink()
                Path(lock.lock_file).unlink()
                lock.release()
            for folder in () if dry_run else (*self.root.glob("??/*"), *self.root.glob("??")):
                with suppress(OSError):  # not empty, as a rule
                    folder.rmdir()
        return found

    def _path(self, digest: str, name: str) -> Path:
        return self.root / digest[:2] / digest / f"{name}{_SUFFIX}"

    def _lock(self, target: Path) -> FileLock:
        return FileLock(target.with_suffix(".lock"), thread_local=False)


def _acquire(lock: FileLock, seconds: float) -> bool:
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    return True


def _target(path: Path) -> Path:
    """The file of rows that a lock, or a temporary file, belongs to."""
    return path.with_name(f"{path.name.removeprefix('.').split('.')[0]}{_SUFFIX}")


def _useless(path: Path, known: Container[str], days: float) -> str | None:
    age = (time.time() - path.stat().st_mtime) / _DAY
    if path.suffix == ".tmp":
        return "left by a write that was cut off"
    if path.parent.name not in known:
        return "outputs of a network that is no longer in the store"
    return f"outputs of a network, unused for {age:.0f} days" if age >= days else None


def _checksum(rows: Mapping[str, Tensor]) -> str:
    import torch

    digest = hashlib.sha256()
    for name in sorted(rows):
        digest.update(f"{name}{tuple(rows[name].shape)}{rows[name].dtype}".encode())
        digest.update(rows[name].contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
