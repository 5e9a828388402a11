"""Short notes on segments, which are saved with the scene."""

from __future__ import annotations

import vtk

from ..errors import PromptSegError
from .placement import label_of

_PREFIX = "PromptSeg."


def segment_of(segmentation_node, segment_id: str):
    """The ``vtkSegment`` with an ID; raises :class:`PromptSegError` when there is none."""
    segment = segmentation_node.GetSegmentation().GetSegment(segment_id)
    if segment is None:
        raise PromptSegError(
            "{label_of} has no segment with ID '{segment_id}'; choose its segments again.",
            label_of=label_of(segmentation_node),
            segment_id=segment_id,
        )
    return segment


def set_tag(segmentation_node, segment_id: str, key: str, text: str) -> None:
    """Note ``text`` on a segment under ``key`` (without the prefix "PromptSeg."); "" takes the note away.

    Slicer writes all tags of a segment into one line, divided by "|", and escapes none: that is done here.
    Tags are saved with the scene and follow undo and redo. Raises :class:`PromptSegError` when the segment is missing.
    """
    segment = segment_of(segmentation_node, segment_id)
    if text:
        segment.SetTag(_PREFIX + key, text.replace("%", "%25").replace("|", "%7C"))
    else:
        segment.RemoveTag(_PREFIX + key)


def tag(segmentation_node, segment_id: str, key: str) -> str:
    """What :func:`set_tag` noted, "" when nothing. Raises :class:`PromptSegError` when the segment is missing."""
    text = vtk.reference("")
    found = segment_of(segmentation_node, segment_id).GetTag(_PREFIX + key, text)
    return str(text).replace("%7C", "|").replace("%25", "%") if found else ""
