"""What the command line prints of names that others chose."""

from __future__ import annotations


def visible(text: str) -> str:
    """One line in which a terminal finds nothing to obey: what cannot be printed is written as Python does."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
