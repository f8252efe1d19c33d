"""The store: find, draft, check and clean up trained networks."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from kdbench.core.errors import StoreError, nearest
from kdbench.core.recipe import Recipe, digest_of
from kdbench.core.signals import raise_if_stopped
from kdbench.store._files import discard, encode_json, explained, probe, size_of, touched, write_atomically
from kdbench.store.draft import Draft, Owner, can_continue, read_owner
from kdbench.store.entry import FIX, BrokenEntryError, Entry, load_entry

_DAY = 86400  # seconds
_PATIENCE = 0.5  # seconds until a wait is worth a word; by then the other process has written down who it is


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _abandoned(draft: Path, days: float) -> str | None:
    age = (time.time() - touched(draft)) / _DAY
    return f"draft, untouched for {age:.0f} days" if age >= days else None


def _broken(folder: Path) -> str | None:
    try:
        return "; ".join(load_entry(folder).verify()) or None
    except BrokenEntryError as error:
        return str(error).removesuffix(FIX)
    except StoreError:  # of another version of kdbench, or unreadable for us: not ours to remove
        return None


class Garbage(NamedTuple):
    """Something that :meth:`Store.gc` removed, or would remove.

    Attributes:
        path: File or folder.
        bytes: What it occupies.
        reason: Why it can go.
    """

    path: Path
    bytes: int
    reason: str


class Store:
    """Trained networks by the digest of their recipes.

    Reading needs no right to write, and many processes may use one store at a time.

    Args:
        root: Its folder; created by the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._drafts = root / ".drafts"
        self._locks = root / ".locks"
        self._trash = root / ".trash"

    def get(self, digest: str) -> Entry | None:
        """The entry of exactly this digest, or ``None``.

        Raises:
            StoreError: There is one, but it is broken or cannot be read.
        """
        folder = self._folder(digest)
        return load_entry(folder) if folder.is_dir() else None

    def find(self, prefix: str) -> Entry:
        """The one entry whose digest begins with ``prefix``.

        Raises:
            StoreError: Fewer than 4 digits, no such entry, several, or a broken one.
        """
        prefix = prefix.lower()
        if not re.fullmatch("[0-9a-f]{4,64}", prefix):
            raise StoreError(f"{prefix!r}: an ID is at least 4 hexadecimal digits; `kdbench store ls` lists them")
        digests = self._digests()
        found = [digest for digest in digests if digest.startswith(prefix)]
        if not found:
            hint = nearest(prefix, {digest[: max(8, len(prefix))] for digest in digests})
            raise StoreError(f"{prefix!r}: no such network in {self.root}{hint} (`kdbench store ls` lists all)")
        if len(found) > 1:
            raise StoreError(f"{prefix!r}: which of {', '.join(digest[:12] for digest in found)}? give more digits")
        return load_entry(self._folder(found[0]))

    def __iter__(self) -> Iterator[Entry]:
        """Every sound entry, oldest first; :meth:`scan` tells of the others."""
        return iter(self.scan()[0])

    def scan(self) -> tuple[list[Entry], dict[str, StoreError]]:
        """Every entry, oldest first, and by digest what is wrong with those that cannot be used."""
        entries, errors = [], {}
        for digest in self._digests():
            try:
                entries.append(load_entry(self._folder(digest)))
            except StoreError as error:
                errors[digest] = error
        return sorted(entries, key=lambda entry: (entry.created, entry.digest)), errors

    def verify(self) -> dict[str, list[str]]:
        """Reads everything, weights included: by digest, one line per problem, none for a sound entry."""
        entries, errors = self.scan()
        return {entry.digest: entry.verify() for entry in entries} | {
            digest: list(error.problems) for digest, error in errors.items()
        }

    def ensure_writable(self) -> None:
        """To be called before a training starts.

        Raises:
            StoreError: Nothing can be stored here; the message says why.
        """
        with explained(self.root):
            probe(self._drafts)
            probe(self._locks)

    def has_checkpoint(self, digest: str) -> bool:
        """Whether :meth:`draft` would continue a training rather than start it."""
        return can_continue(self._drafts / digest)

    @contextmanager
    def draft(self, recipe: Recipe, *, on_wait: Callable[[Owner | None], None] | None = None) -> Iterator[Draft]:
        """The right to train a network, for one process at a time; ends with its process, however that ends.

        Waits while another process trains the same network. If that one finished it, ``draft.entry`` is set and
        there is nothing to train.

        Args:
            recipe: Of the network.
            on_wait: Called once if there is something to wait for, with the other process if it is known.

        Raises:
            StoreError: The store cannot be written, or holds a broken entry of this network.
            Stopped: A signal asked for it while waiting.
        """
        path = self._drafts / recipe.digest
        lock = self._lock(recipe.digest)
        if not self._acquire(lock, seconds=_PATIENCE):
            if on_wait is not None:
                on_wait(read_owner(path))
            while not self._acquire(lock, seconds=_PATIENCE):
                raise_if_stopped()
        try:
            draft = Draft(self.root, path, self._folder(recipe.digest), recipe)
            draft.entry = self.get(recipe.digest)
            if draft.entry is None:
                draft.open()
            try:
                yield draft
            finally:
                draft.close()
                if draft.entry is not None:
                    Path(lock.lock_file).unlink(missing_ok=True)
        finally:
            lock.release()

    def remove(self, digest: str, *, force: bool = False) -> None:
        """Removes one entry, sound or not; its later measurements stay.

        Raises:
            StoreError: There is none, or it taught another one and ``force`` is not given.
        """
        folder = self._folder(digest)
        if not folder.is_dir():
            raise StoreError(f"{digest[:8]}: no such network in {self.root}; `kdbench store ls` lists all")
        taught = [e for e in self if any(teacher.digest == digest for teacher in e.recipe.teachers)]
        if taught and not force:
            names = ", ".join(f"{entry.id} ({entry.recipe.name})" for entry in taught)
            raise StoreError(f"{digest[:8]}: taught {names}; remove those first, or give --force")
        with explained(self.root):
            discard(folder, self._trash)

    def gc(self, *, dry_run: bool = False, broken: bool = False, older_than_days: float = 7) -> list[Garbage]:
        """Removes what no process holds and nobody needs; a sound entry never.

        Args:
            dry_run: Only tell.
            broken: Also remove entries that are not what was written; reads every weight.
            older_than_days: Age from which an abandoned draft, with its checkpoint, is removed.

        Raises:
            StoreError: The store cannot be written.
        """
        found: list[Garbage] = []
        with explained(self.root):
            for path in _children(self._trash):
                found.append(Garbage(path, size_of(path), "left by a removal that was cut off"))
                if not dry_run:
                    shutil.rmtree(path, ignore_errors=True)
            for path in _children(self._drafts):
                found += self._clear(path, partial(_abandoned, path, older_than_days), dry_run)
            for folder in map(self._folder, self._digests() if broken else ()):
                if _broken(folder):
                    found += self._clear(folder, partial(_broken, folder), dry_run)
            for path in _children(self._locks):
                with self._claim(path.stem) as mine:
                    if mine and not (self._drafts / path.stem).exists():
                        found.append(Garbage(path, 0, "lock that nobody holds"))
                        if not dry_run:
                            path.unlink()  # whoever waits for it notices: filelock checks that the file has a name
        return found

    def add_eval(self, digest: str, record: Mapping[str, Any]) -> Path:
        """Keeps a later measurement of an entry, beside the store under a name made from its content.

        Raises:
            StoreError: The disk is full or read-only.
            ValueError: A number is NaN or infinite.
        """
        path = self.eval_path(digest, record)
        text = encode_json(record)
        with explained(self.root.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: file.write(text))
        return path

    def eval_path(self, digest: str, record: Mapping[str, Any]) -> Path:
        """The file in which a later measurement of an entry is kept."""
        return self._evals(digest) / f"{digest_of(record)}.json"

    def evals(self, digest: str) -> list[dict[str, Any]]:
        """The later measurements of an entry, in the order of their names.

        Raises:
            StoreError: A record is not what was written.
        """
        records = []
        for path in sorted(self._evals(digest).glob("*.json")):
            try:
                records.append(json.loads(path.read_bytes()))
                sound = digest_of(records[-1]) == path.stem
            except ValueError:
                sound = False
            if not sound:
                raise StoreError(f"{path}: changed since it was written; remove it and measure again")
        return records

    def find_evals(self, digest: str, wanted: Mapping[str, Any], split: str = "test") -> dict[str, dict[str, Any]]:
        """The later measurements of an entry that were made with exactly the options of ``wanted``, by name.

        Raises:
            StoreError: A record is not what was written.
        """
        made = {
            record["evaluation"]: record
            for record in self.evals(digest)
            if record.get("split") == split
            and "headline" in record
            and wanted.get(record["evaluation"]) == record["options"]
        }
        return {name: made[name] for name in wanted if name in made}

    def _folder(self, digest: str) -> Path:
        return self.root / digest[:2] / digest

    def _evals(self, digest: str) -> Path:
        return self.root.parent / "evals" / digest

    def _digests(self) -> list[str]:
        return sorted(path.name for path in self.root.glob("[0-9a-f][0-9a-f]/*") if path.is_dir())

    def _lock(self, digest: str) -> FileLock:
        return FileLock(self._locks / f"{digest}.lock", thread_local=False)

    def _acquire(self, lock: FileLock, *, seconds: float) -> bool:
        with explained(self.root):
            self._locks.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=seconds)
            except Timeout:
                return False
        return True

    @contextmanager
    def _claim(self, digest: str) -> Iterator[bool]:
        lock = self._lock(digest)
        fresh = not Path(lock.lock_file).exists()
        mine = self._acquire(lock, seconds=0)
        try:
            yield mine
        finally:
            if mine and fresh:  # cleaning up must not litter
                Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

    def _clear(self, path: Path, why: Callable[[], str | None], dry_run: bool) -> list[Garbage]:
        with self._claim(path.name) as mine:
            if not (mine and path.exists() and (reason := why())):  # asked under the lock: it may be somebody's by now
                return []
            garbage = Garbage(path, size_of(path), reason)
            if not dry_run:
                discard(path, self._trash)
            return [garbage]
