"""One copy of what several processes of a machine read: made by the first, mapped by all."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch
from filelock import FileLock

T = TypeVar("T")


def made_once(file: Path, make: Callable[[], T]) -> T:
    """What ``make`` gives, its tensors mapped from ``file``: pages that nobody writes to are in memory once.

    Args:
        file: In a folder of this command's own: what lies there is unpickled.
        make: Called by the first process that comes; others wait for it.

    Returns:
        As made; where there is no room for the file, in memory of this process's own.
    """
    with FileLock(f"{file}.lock"):
        if not file.exists():
            made = make()
            part = file.with_suffix(".part")
            try:
                torch.save(made, part)
                os.replace(part, file)
            except (OSError, RuntimeError):  # torch reports a full disk as either
                with suppress(OSError):
                    part.unlink()
                return made
    found: T = torch.load(file, mmap=True, weights_only=False)
    return found
