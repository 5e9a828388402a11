"""The catalogue: which backbones there are and where they lie; needs no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Optional

from ..errors import PromptSegError

FOLDER = Path(__file__).parent
CATALOGUE = FOLDER / "catalogue.json"


@dataclass(frozen=True)
class Entry:
    """One backbone of the catalogue (or a file of the user's, with nothing known but its path)."""

    name: str
    path: Path
    title: str = ""
    modality: str = ""
    spacing: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()
    licence: str = ""
    sha256: str = ""
    prompts: Optional[Path] = None
    card: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict:
        return {
            "name": self.name,
            "title": self.title,
            "modality": self.modality,
            "spacing": list(self.spacing),
            "classes": list(self.classes),
            "licence": self.licence,
            "sha256": self.sha256,
            "path": str(self.path),
            "prompts": str(self.prompts) if self.prompts else None,
            "card": dict(self.card),
        }


def entries() -> list[Entry]:
    """All backbones of the catalogue; the first is the default."""
    found = []
    for item in json.loads(CATALOGUE.read_text(encoding="utf-8"))["models"]:
        found.append(
            Entry(
                item["name"],
                FOLDER / item["file"],
                item["title"],
                item["modality"],
                tuple(item["spacing"]),
                tuple(item["classes"]),
                item["licence"],
                item["sha256"],
                FOLDER / item["prompts"] if item.get("prompts") else None,
                item.get("card", {}),
            )
        )
    return found


def find(model: Optional[str] = None) -> Entry:
    """The entry of that name, the default without a name, or a file of that path.

    Raises :class:`PromptSegError` when there is neither.
    """
    known = entries()
    if model is None:
        return known[0]
    for entry in known:
        if entry.name == model:
            return entry
    path = Path(model)
    if path.is_file():
        return Entry(path.stem, path, prompts=path.with_suffix(".prompts.safetensors"))
    names = ", ".join(entry.name for entry in known)
    raise PromptSegError(f"There is no model {str(model)!r}: give one of {names}, or the path of a backbone file.")


def find_sha256(sha256: str) -> Optional[Entry]:
    """The catalogue's entry with that hash, or None."""
    return next((entry for entry in entries() if entry.sha256 == sha256), None)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()
