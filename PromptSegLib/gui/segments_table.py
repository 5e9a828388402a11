"""The list of segments: its lines, what each is to a tuning, which is next, and names to complete what is typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterable

from ..annotation.classes import canonical_name
from ..errors import PromptSegError
from ..scene import scene_nodes
from ..scene.roles import Role, set_role
from ..scene.segment_list import is_shown
from ..scene.segmentations import Segment, segments
from ..session.actions import Level, Notice

# Role -> what a list shows, and what it means.
ROLES = {
    Role.TUNE: ("Tune", "A structure to learn: what is painted is the structure."),
    Role.BACKGROUND: ("Background", "What is painted is none of the structures."),
    Role.LOCKED: ("Locked", "Not learned, and no result takes a voxel from it."),
    Role.IGNORE: ("Ignore", "Not learned, and told nothing about."),
}


def listed(scene: Any, segmentation: Any) -> tuple[Segment, ...]:
    """The segments of a segmentation, in its order; none where it is None or no longer in the scene."""
    if not scene_nodes.alive(scene, segmentation):
        return ()
    return tuple(segments(segmentation))


def anything_painted(found: Iterable[Segment]) -> bool:
    """Whether a structure to tune has a voxel."""
    return any(not each.is_empty and each.role == Role.TUNE for each in found)


def choose_role(segmentation, segment_id: str, role: str) -> Notice:
    """Give a segment another role; says what was wrong, else nothing."""
    try:
        set_role(segmentation, segment_id, role)
    except PromptSegError as error:
        return Notice(str(error), Level.ERROR)
    return Notice()


@dataclass(frozen=True)
class SegmentRow:
    """``color`` is RGB in 0..255; ``shown`` whether the views show it."""

    id: str
    name: str
    color: tuple[int, int, int]
    role: str
    is_empty: bool
    shown: bool


def segment_rows(scene: Any, segmentation: Any) -> tuple[SegmentRow, ...]:
    """Structures first, in the segmentation's order, then the background."""
    found = [
        SegmentRow(
            each.id,
            each.name,
            (round(255 * each.color[0]), round(255 * each.color[1]), round(255 * each.color[2])),
            each.role,
            each.is_empty,
            is_shown(segmentation, each.id),
        )
        for each in listed(scene, segmentation)
    ]
    return tuple(sorted(found, key=lambda row: row.role == Role.BACKGROUND))


def next_id(rows: tuple[SegmentRow, ...], current: str) -> str:
    """The ID of the segment after ``current``, around the end; the first where there is none such; "" of none."""
    ids = [row.id for row in rows]
    return ids[(ids.index(current) + 1) % len(ids)] if current in ids else (ids or [""])[0]


def background_id(rows: tuple[SegmentRow, ...]) -> str:
    """The ID of the first background; "" without one."""
    return next((row.id for row in rows if row.role == Role.BACKGROUND), "")


def matches(typed: str, names: Iterable[str], most: int = 12) -> tuple[str, ...]:
    """Names that complete what was typed: those that begin with it, then those with a word that does."""
    key = canonical_name(typed).lower()
    if not key:
        return ()
    plain = [(canonical_name(name).lower(), name) for name in names]
    first = [name for each, name in plain if each.startswith(key)]
    inside = [name for each, name in plain if f" {key}" in each and name not in first]
    return tuple((first + inside)[:most])
