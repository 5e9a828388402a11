"""What a segment is to a tuning: a class to tune, known background, kept as it is, or ignored."""

from __future__ import annotations

from ..choice import Choice
from ..errors import PromptSegError
from .segment_tags import segment_of, set_tag, tag

_KEY = "Role"


class Role(Choice):
    TUNE = "tune"
    BACKGROUND = "background"
    LOCKED = "locked"
    IGNORE = "ignore"


ROLES = tuple(Role)


def role_of(segmentation_node, segment_id: str) -> Role:
    """What a segment is.

    One that was given no role is background if that is its name (in any case), else to be tuned.
    Raises :class:`PromptSegError` when the segment is missing.
    """
    role = tag(segmentation_node, segment_id, _KEY)
    if role in ROLES:
        return Role(role)
    name = segment_of(segmentation_node, segment_id).GetName() or ""
    return Role.BACKGROUND if name.strip().lower() == Role.BACKGROUND else Role.TUNE


def set_role(segmentation_node, segment_id: str, role: str) -> None:
    """Give a segment one of :data:`ROLES`; it is saved with the scene and follows undo and redo.

    Slicer itself has no lock on segments: "locked" binds this extension and nobody else.
    Raises :class:`PromptSegError` for another role or when the segment is missing.
    """
    if role not in ROLES:
        raise PromptSegError(
            "'{role}' is not a role of a segment; use one of {roles}.", role=role, roles=", ".join(ROLES)
        )
    if tag(segmentation_node, segment_id, _KEY) != role:
        set_tag(segmentation_node, segment_id, _KEY, role)
