"""The one exception that carries a sentence for the user."""

from __future__ import annotations


class PromptSegError(ValueError):
    """Bad input: the message is one sentence that says what is wrong and what to do."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the machine or on its GPU; torch and ITK say so in a ``RuntimeError``."""
    said = str(error).lower()
    told = ("out of memory", "can't allocate memory", "bad_alloc", "not enough memory")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(each in said for each in told))
