"""Naming a structure in one step: names to choose from, and what a chosen name brings with it."""

from __future__ import annotations

from typing import Iterable, Mapping, Optional, Sequence

from ..annotation.classes import ClassInfo, canonical_name, describe, is_name, known_names
from ..errors import PromptSegError
from ..models import catalogue

BACKGROUND = "background"
GRAY = (0.6, 0.6, 0.6)


class Names:
    """Structures by the names that users type.

    :param more: further entries, name -> (terminology, color or None), as the application's terminologies have them;
        asked for once, when the first name is.
    """

    def __init__(self, more=lambda: {}):
        self._ask, self._more = more, None

    def suggestions(self) -> tuple[str, ...]:
        """Names to complete what is typed: what the models know first, then the terminologies', each once."""
        shipped = [name for entry in catalogue.entries() for name in entry.classes]
        listed: dict[str, str] = {}
        for name in (*shipped, *known_names(), *self._further()):
            listed.setdefault(canonical_name(name).lower(), name)
        return tuple(listed.values())

    def described(self, name: str, taken: Sequence[ClassInfo] = ()) -> ClassInfo:
        """Name, color and terminology for what was typed; a color that no other has where the name is not known.

        Raises :class:`PromptSegError` for what is no name.
        """
        name = " ".join(name.split())
        if not is_name(name):
            raise PromptSegError("Type the name of a structure, as liver: one line of text that can be read.")
        if canonical_name(name).lower() == BACKGROUND:
            return ClassInfo(name, 1, GRAY)
        info = describe(name, 1, taken)
        found = self._found(name)
        if info.terminology or found is None:
            return info
        terminology, color = found
        return ClassInfo(name, 1, color or info.color, terminology)

    def _found(self, name: str) -> Optional[tuple[str, Optional[tuple[float, float, float]]]]:
        key = canonical_name(name).lower()
        return next((each for other, each in self._further().items() if canonical_name(other).lower() == key), None)

    def _further(self) -> Mapping[str, tuple[str, Optional[tuple[float, float, float]]]]:
        if self._more is None:
            self._more = dict(self._ask())
        return self._more


def matches(typed: str, names: Iterable[str], most: int = 12) -> tuple[str, ...]:
    """Names that complete what was typed: those that begin with it, then those with a word that does."""
    key = canonical_name(typed).lower()
    if not key:
        return ()
    plain = [(canonical_name(name).lower(), name) for name in names]
    first = [name for each, name in plain if each.startswith(key)]
    inside = [name for each, name in plain if f" {key}" in each and name not in first]
    return tuple((first + inside)[:most])
