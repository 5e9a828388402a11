"""How a program of ours gets its memory from the system."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
KEPT = 512 * 2**20  # bytes


def keep_freed_memory(kept: int = KEPT) -> bool:
    """Let glibc keep what this process frees for its next tensors, which are as large; whether it does.

    Otherwise every large map is given back to the system, and each of its pages is asked for and cleared anew: a third
    of the processor time of the growing network (docs/benchmarks.md#memory-that-is-kept). For processes of our own.

    :param kept: bytes at the end of the heap that are not given back.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        ask = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    # No mappings at all: versions of glibc differ in how large a threshold for them may be.
    done = True
    for name, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, kept), (_TOP_PAD, 2**26)):
        done = bool(ask(name, value)) and done
    return done
