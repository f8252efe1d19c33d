"""A network in the making: a folder that outlives crashes and becomes an entry by one rename."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from kdbench.core.recipe import Recipe
from kdbench.store._files import (
    checksum_of,
    discard,
    encode_history,
    encode_json,
    explained,
    probe,
    protect,
    sync_folder,
    write_atomically,
)
from kdbench.store.entry import (
    BEST,
    CHECKSUMS,
    ENV,
    HISTORY,
    LAST,
    METRICS,
    RECIPE,
    BrokenEntryError,
    Entry,
    Which,
    load_entry,
    selected_weights,
)

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINT = "resume.ckpt"
_OWNER = "owner.json"


class Owner(NamedTuple):
    """The process that is training a network.

    Attributes:
        pid: Its number on its host.
        host: The name of that machine.
        since: When it took the network up, ISO 8601 in UTC.
    """

    pid: int
    host: str
    since: str


def read_owner(folder: Path) -> Owner | None:
    """Who works on the draft in ``folder``; ``None`` if that is not written there (yet)."""
    try:
        return Owner(**json.loads((folder / _OWNER).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def can_continue(folder: Path) -> bool:
    """Whether the draft in ``folder`` holds a checkpoint, or a finished training that was not committed any more."""
    return (folder / CHECKPOINT).is_file() or (folder / CHECKSUMS).is_file()


class Draft:
    """What one process, holding the network's lock, trains into; made by :meth:`Store.draft`.

    Attributes:
        recipe: Of the network in the making.
        path: Its folder; what lies there is found again after a crash.
        entry: The finished network: after :meth:`commit`, or at once if another process was faster or died committing.
    """

    def __init__(self, root: Path, path: Path, target: Path, recipe: Recipe) -> None:
        self.recipe = recipe
        self.path = path
        self.entry: Entry | None = None
        self._root = root
        self._target = target

    @property
    def checkpoint(self) -> Path:
        """Where the resume checkpoint lies, if there is one; dropped by :meth:`commit`."""
        return self.path / CHECKPOINT

    def open(self) -> None:
        """Takes the folder over from whoever left it; finishes a commit that was cut off."""
        with explained(self._root):
            probe(self.path)
            probe(self._target.parent)
            for left in self.path.glob(".*.tmp"):
                left.unlink()
            if (self.path / CHECKSUMS).is_file():
                self._finish()
        if self.entry is None:
            owner = Owner(os.getpid(), socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"))
            self._write_bytes(_OWNER, encode_json(owner._asdict()))

    def close(self) -> None:
        """Leaves the folder to the next process, or no folder if nothing was written."""
        with explained(self._root):
            (self.path / _OWNER).unlink(missing_ok=True)
            if self.path.is_dir() and not any(self.path.iterdir()):
                self.path.rmdir()

    def write(self, name: str, writer: Callable[[BinaryIO], object]) -> None:
        """Writes a file of the draft so that it is old or new, never half, whatever happens.

        Args:
            name: File name, e.g. :data:`CHECKPOINT`.
            writer: Called with the open binary file, e.g. ``lambda file: torch.save(state, file)``.

        Raises:
            StoreError: The disk is full or read-only; the previous file is as it was.
        """
        with explained(self._root):
            write_atomically(self.path / name, writer)

    def write_weights(self, which: Which, tensors: Mapping[str, Tensor]) -> None:
        """Writes ``last.safetensors`` or ``best.safetensors``.

        Raises:
            StoreError: The disk is full or read-only; the previous file is as it was.
        """
        import torch
        from safetensors.torch import save

        # safetensors refuses tied and channels_last tensors: each gets memory of its own, in plain order.
        plain = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
        self._write_bytes(LAST if which == "last" else BEST, save(plain))

    def commit(
        self, metrics: Mapping[str, Any], history: Sequence[Mapping[str, float | None]], env: Mapping[str, Any]
    ) -> Entry:
        """Makes the draft an entry, for good; the weights must have been written before.

        ``checksums.json`` is written last and says that only the rename is missing: until then the checkpoint stays,
        from then on :meth:`open` finishes what was cut off. So nothing is lost at whatever point the process dies.

        Args:
            metrics: JSON values; ``None`` where something was not measured.
            history: One row per logged point; ``None`` and absent are the same.
            env: Commit, library versions, thread count, host; the time is added.

        Raises:
            StoreError: The disk is full or read-only; the draft can be committed again later.
            ValueError: A metric is NaN or infinite.
        """
        assert (self.path / LAST).is_file(), f"{LAST} was not written"
        assert selected_weights(self.recipe) == "last" or (self.path / BEST).is_file(), f"{BEST} was not written"
        texts = {
            RECIPE: encode_json(self.recipe.to_dict()),
            METRICS: encode_json(metrics),
            HISTORY: encode_history(history),
            ENV: encode_json({**env, "created": datetime.now(UTC).isoformat()}),
        }
        for name, text in texts.items():
            self._write_bytes(name, text)
        with explained(self._root):
            names = [name for name in (LAST, BEST, *texts) if (self.path / name).is_file()]
            checksums = {name: checksum_of(self.path / name)._asdict() for name in names}
        self._write_bytes(CHECKSUMS, encode_json(checksums))
        return self._publish()

    def _write_bytes(self, name: str, data: bytes) -> None:
        self.write(name, lambda file: file.write(data))

    def _finish(self) -> None:
        try:
            whole = not load_entry(self.path).verify()
        except BrokenEntryError:
            whole = False
        if whole:
            self._publish()
        else:
            (self.path / CHECKSUMS).unlink()

    def _publish(self) -> Entry:
        with explained(self._root):
            keep = {CHECKSUMS, *load_entry(self.path).checksums}
            for found in self.path.iterdir():
                if found.name in keep:
                    protect(found)
                elif found.is_dir():
                    shutil.rmtree(found)
                else:
                    found.unlink()
            self._target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(self.path, self._target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                # Where locks do not reach, as between hosts, another process was first; its weights are as good.
                discard(self.path, self._root / ".trash")
            else:
                protect(self._target)  # not before: a folder that moves must be writable
                for folder in (self.path.parent, self._target.parent, self._root):
                    sync_folder(folder)
            self.entry = load_entry(self._target)
        return self.entry
