"""Closed sets of words."""

from __future__ import annotations

from enum import Enum


class Choice(str, Enum):
    """One of a few words, which is that word as well: in files, on the command line and in messages of a worker.

    Example::

        class Role(Choice):
            TUNE = "tune"

        assert Role("tune") is Role.TUNE == "tune" == f"{Role.TUNE}"
    """

    __str__ = str.__str__
    __hash__ = str.__hash__

    def __format__(self, format_spec: str) -> str:
        return str.__format__(self, format_spec)
