"""Images, examples and results as the values and arrays of messages."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import numpy as np
import SimpleITK as sitk

from ..annotation.classes import ClassInfo
from ..errors import Sentence
from ..imaging.geometry import Grid, holds_directions, nonzero_extent
from ..prompts.store import Prompts


def grid_values(grid: Grid) -> dict[str, list]:
    return {
        "size": list(grid.size),
        "spacing": list(grid.spacing),
        "origin": list(grid.origin),
        "direction": list(grid.direction),
    }


def grid_of(values: Mapping[str, Any]) -> Grid:
    """Undo :func:`grid_values`; raises ``KeyError``, ``TypeError`` or ``ValueError`` for something else."""
    x, y, z = (int(extent) for extent in values["size"])
    spacing, origin, direction = (
        tuple(float(part) for part in values[key]) for key in ("spacing", "origin", "direction")
    )
    if not holds_directions(direction):
        raise ValueError("a grid has no directions")
    return Grid((x, y, z), (spacing[0], spacing[1], spacing[2]), (origin[0], origin[1], origin[2]), direction)


def packed_labels(labels: sitk.Image) -> tuple[dict[str, list], np.ndarray]:
    """Grid and voxels (z, y, x) of the part of a label image that is not 0: results are mostly empty."""
    voxels, grid = sitk.GetArrayViewFromImage(labels), Grid.of(labels)
    extent = nonzero_extent(voxels)
    i, i_end, j, j_end, k, k_end = extent if extent is not None else (0, 0, 0, 0, 0, 0)
    part = voxels[k : k_end + 1, j : j_end + 1, i : i_end + 1].copy()
    return grid_values(grid.part((i, j, k), (i_end + 1, j_end + 1, k_end + 1))), part


def packed_notes(notes: Sequence[str]) -> list[Any]:
    """Sentences for the user, with what they were made of, so that they can be said in another language."""
    return [each.to_dict() if isinstance(each, Sentence) else str(each) for each in notes]


def notes_of(values: Sequence[Any]) -> tuple[str, ...]:
    """Undo :func:`packed_notes`."""
    return tuple(Sentence.from_dict(each) if isinstance(each, dict) else str(each) for each in values)


def packed_infos(infos) -> list[dict]:
    return [info.to_dict() for info in infos]


def infos_of(values) -> tuple[ClassInfo, ...]:
    return tuple(ClassInfo.from_dict(each) for each in values)


def packed_prompts(prompts: Prompts) -> np.ndarray:
    return np.frombuffer(prompts.to_bytes(whole=True), np.uint8)


def prompts_of(array: np.ndarray) -> Prompts:
    """Undo :func:`packed_prompts`; raises :class:`PromptSegError` for something else."""
    return Prompts.from_bytes(array.tobytes(), whole=True)
