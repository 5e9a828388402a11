"""Prompts that come along for a backbone beside those of its pretraining: what was learned later on its frozen body."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Optional, Sequence

from ..annotation.classes import is_name

if TYPE_CHECKING:
    from .catalogue import Entry


@dataclass(frozen=True)
class FurtherPrompts:
    """Bundled prompts of classes that their backbone was not pretrained on.

    :param modality: of the images that they are for.
    :param card: what they learned from, and how well they do.
    """

    name: str
    path: Path
    title: str
    modality: str
    classes: tuple[str, ...]
    licence: str
    card: Mapping[str, Any] = field(default_factory=dict)


def further_of(items: Sequence[Mapping[str, Any]], folder: Path) -> tuple[FurtherPrompts, ...]:
    """From the catalogue; raises any of the errors of reading JSON for what is no list of prompts."""
    found = []
    for item in items:
        texts = [item[key] for key in ("name", "file", "title", "modality", "licence")]
        if not all(isinstance(each, str) for each in (*texts, *item["classes"])) or not is_name(item["name"]):
            raise ValueError("further prompts are none")
        name, file, title, modality, licence = texts
        classes, card = tuple(item["classes"]), item.get("card", {})
        found.append(FurtherPrompts(name, folder / file, title, modality, classes, licence, card))
    return tuple(found)


def find_further(entries: Sequence[Entry], name: str) -> Optional[FurtherPrompts]:
    """The further prompts of that name; None where no entry has them."""
    return next((each for entry in entries for each in entry.further if each.name == name), None)
