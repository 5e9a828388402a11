"""How a program of ours gets its memory from the system."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_KEPT = 512 * 2**20  # bytes of freed memory that stay with the process
_LARGE = 2**30  # bytes from which on an allocation is a mapping of its own


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for its next tensors (glibc; elsewhere nothing is done).

    By default glibc maps memory anew for whatever is large, and the system clears each page of it: a third of the
    processor time of the growing network (docs/benchmarks.md#memory-that-is-kept). Only for processes of our own.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(AttributeError, OSError):  # musl has no mallopt
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP, _LARGE)
        library.mallopt(_TRIM, _KEPT)
