"""JSON of a file that anybody may have written."""

from __future__ import annotations

from math import isfinite
from typing import Any

_MAX_DEPTH = 16


def refuse_constant(text: str) -> None:
    """Refuse NaN and infinity; for ``json.loads``."""
    raise ValueError(f"{text} is no JSON")


def check_json(content: Any) -> None:
    """Refuse what cannot be written as JSON again: deep nesting, and numbers like 1e999, which are read as infinity."""
    level = [content]
    for _ in range(_MAX_DEPTH):
        deeper: list[Any] = []
        for each in level:
            if isinstance(each, float) and not isfinite(each):
                raise ValueError("a number is not finite")
            if isinstance(each, dict):
                deeper += each.values()
            elif isinstance(each, list):
                deeper += each
        level = deeper
    if level:
        raise ValueError("it is nested too deeply")


def short(thing: Any) -> str:
    """A thing as a text for one line of a message: what can be printed of it, at most 80 letters."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(thing)[:200])
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."
