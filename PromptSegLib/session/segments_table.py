"""The table of segments: what each is to a tuning."""

from __future__ import annotations

from typing import Iterable

from ..errors import PromptSegError
from ..scene import links
from ..scene.roles import set_role
from ..scene.segmentations import Segment, segments
from .view import Notice

# Role -> what a list shows, and what it means.
ROLES = {
    "tune": ("Tune", "A structure to learn: what is painted is the structure."),
    "background": ("Background", "What is painted is none of the structures."),
    "locked": ("Locked", "Not learned, and no result takes a voxel from it."),
    "ignore": ("Ignore", "Not learned, and told nothing about."),
}


def rows(scene, segmentation) -> tuple[Segment, ...]:
    """The segments of a segmentation, in its order; none where it is None or no longer in the scene."""
    if not links.alive(scene, segmentation):
        return ()
    return tuple(segments(segmentation))


def anything_painted(found: Iterable[Segment]) -> bool:
    """Whether a structure to tune has a voxel."""
    return any(not each.is_empty and each.role == "tune" for each in found)


def choose_role(segmentation, segment_id: str, role: str) -> Notice:
    """Give a segment another role; says what was wrong, else nothing."""
    try:
        set_role(segmentation, segment_id, role)
    except PromptSegError as error:
        return Notice(str(error), "error")
    return Notice()
