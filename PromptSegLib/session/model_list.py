"""The models to choose from, with what a user wants to know before choosing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Mapping

from ..models import catalogue, own


@dataclass(frozen=True)
class ModelRow:
    """A model of the catalogue, or a file of the user's, of which little is known.

    :param key: as in the parameters.
    :param expected: seconds to segment a large CT, by ``cpu`` and ``gpu``, where that was measured.
    :param megabytes: of its weights; 0 where it is not known.
    :param bundled: part of PromptSeg, or a file that the user put there: it is not deleted from the panel.
    :param own: made by a user, with PromptSeg.
    """

    key: str
    title: str
    modality: str
    classes: tuple[str, ...]
    licence: str
    expected: Mapping[str, float]
    megabytes: float
    installed: bool
    bundled: bool
    own: bool = False


def rows(model: str = "") -> tuple[ModelRow, ...]:
    """The catalogue in its order, the first is the default; then the chosen model where it is a file."""
    found = [_row(entry.name, entry) for entry in catalogue.entries()]
    if model and all(row.key != model for row in found):
        path = Path(model)
        known = catalogue.Entry(path.stem, path, title=path.stem)
        found.append(_row(model, known))
    return tuple(found)


def chosen(found: tuple[ModelRow, ...], model: str) -> ModelRow:
    """The row of a model as it is in the parameters; "" is the first."""
    return next((row for row in found if row.key == model), found[0])


def _row(key: str, entry: catalogue.Entry) -> ModelRow:
    return ModelRow(
        key,
        entry.title or entry.name,
        entry.modality,
        entry.classes,
        entry.licence,
        entry.expected,
        entry.size / 1e6,
        entry.installed,
        entry.bundled and not own.is_own(entry),
        own.is_own(entry),
    )
