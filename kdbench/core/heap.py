"""What a training frees is kept for the next step, instead of being given back and fetched again page by page."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # names of glibc's mallopt
_MIB = 2**20
_CHOICES = {_MMAP_THRESHOLD: 32 * _MIB, _TRIM_THRESHOLD: 1024 * _MIB, _TOP_PAD: 64 * _MIB}


def keep_freed_memory() -> bool:
    """Tells glibc's allocator to keep what is freed, which a CPU's step allocates again at once.

    By default it returns every large tensor to the system, which hands it out again as zeroed pages: thousands of
    page faults per step. Peak memory stays what it was. Whoever chose for himself is left alone: by ``MALLOC_*`` or
    ``GLIBC_TUNABLES``, or by an allocator of his own, which answers in place of this one.

    Returns:
        Whether it was told.
    """
    chosen = [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" and not chosen else None
    if mallopt is None:
        return False
    return all(mallopt(name, value) for name, value in _CHOICES.items())
