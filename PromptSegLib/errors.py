"""The one exception that carries a sentence for the user."""

from __future__ import annotations

import errno


class PromptSegError(ValueError):
    """Bad input: the message is one sentence that says what is wrong and what to do."""


_TOLD = (
    "out of memory",
    "allocate memory",  # torch on the CPU, ITK, and errno 12 in whatever wraps it
    "bad_alloc",
    "bad allocation",
    "not enough memory",
    "alloc_failed",  # cuBLAS, cuDNN
    "allocation_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the machine or on its GPU; libraries say so in errors of many types."""
    if isinstance(error, PromptSegError):
        return False
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    said = str(error).lower()
    return isinstance(error, Exception) and any(each in said for each in _TOLD)
