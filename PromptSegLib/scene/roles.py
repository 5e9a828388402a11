"""What a segment is to a tuning: a class to tune, known background, kept as it is, or ignored."""

from __future__ import annotations

from ..errors import PromptSegError
from .node_references import segment_of, set_tag, tag

ROLES = ("tune", "background", "locked", "ignore")
_KEY = "Role"


def role_of(segmentation_node, segment_id: str) -> str:
    """One of :data:`ROLES`.

    A segment that was given none is "background" if that is its name (in any case), else "tune".
    Raises :class:`PromptSegError` when the segment is missing.
    """
    role = tag(segmentation_node, segment_id, _KEY)
    if role in ROLES:
        return role
    name = segment_of(segmentation_node, segment_id).GetName() or ""
    return "background" if name.strip().lower() == "background" else "tune"


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
