"""Segments to annotations, and results to segments.

Segment voxels are handled as arrays (k, j, i); matrices are those of :mod:`.placement`. Results are
not written with ``ImportLabelmapToSegmentationNode``, which applies the transform between labelmap
and segmentation twice (seen in Slicer 5.12).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Mapping, Optional, Sequence

import numpy as np
import SimpleITK as sitk
import slicer
import vtk

from ..annotation.classes import ClassInfo, matching_name
from ..errors import PromptSegError
from ..inference.result import Segmentation
from .labelmaps import BINARY, is_empty, labelmap_of
from .layers import accepted, give_way, leave_layers, renew_derived
from .placement import image_to_world, label_of, node_to_world, orthogonal, volume_to_world
from .roles import Role, role_of
from .segment_list import place_empty
from .segment_snapshot import layer_of, look

_SURFACE = "Closed surface"
RESULT_TAG = "PromptSeg.Result"  # marks segments that a result made, so that the next result may replace them


@dataclass(frozen=True)
class Segment:
    """A segment as a list shows it; ``color`` is RGB in 0..1, ``terminology`` serialized and "" when there is none."""

    id: str
    name: str
    color: tuple[float, float, float]
    terminology: str
    role: Role
    is_empty: bool


def segments(segmentation_node) -> list[Segment]:
    """All segments of a segmentation, in its order."""
    segmentation = segmentation_node.GetSegmentation()
    found = []
    for segment_id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segment_id)
        terminology = vtk.reference("")
        known = segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), terminology)
        found.append(
            Segment(
                segment_id,
                segment.GetName() or "",
                segment.GetColor(),
                str(terminology) if known else "",
                role_of(segmentation_node, segment_id),
                is_empty(segmentation, segment_id),
            )
        )
    return found


def show_surfaces(segmentation_node) -> None:
    """Make the closed surfaces of a segmentation and show them in 3D views, but for the background's, which are
    strokes and stand before what one wants to see. It takes its time."""
    segmentation_node.CreateClosedSurfaceRepresentation()
    display = segmentation_node.GetDisplayNode()
    if display is not None:
        for segment_id in segmentation_node.GetSegmentation().GetSegmentIDs():
            if role_of(segmentation_node, segment_id) == "background":
                display.SetSegmentVisibility3D(segment_id, False)
        display.SetVisibility3D(True)


def check_writable(segmentation_node, volume_node) -> None:
    """Raise :class:`PromptSegError` where :func:`apply_result` would for any result on a volume's grid."""
    what = label_of(segmentation_node)
    segmentation = segmentation_node.GetSegmentation()
    source = segmentation.GetSourceRepresentationName()
    if source != BINARY and segmentation.GetNumberOfSegments():
        kind = "surfaces" if source == _SURFACE else f"another kind ({source.lower()})"
        raise PromptSegError(
            "{what} is made of {kind}; make binary labelmap its source representation (Segmentations) "
            "or choose another.",
            what=what,
            kind=kind,
        )
    volume = volume_to_world(volume_node)  # refuses what the reference geometry would silently ignore
    size = volume_node.GetImageData().GetDimensions() if volume_node.GetImageData() is not None else (1, 1, 1)
    orthogonal(np.linalg.inv(node_to_world(segmentation_node)) @ volume, size, what)


def apply_result(
    segmentation_node,
    volume_node,
    result: Segmentation,
    segment_ids: Optional[Mapping[str, str]] = None,
    protect: Sequence[str] = (),
    overwrite: Sequence[str] = (),
    spare: Sequence[str] = (),
    painted: Optional[sitk.Image] = None,
) -> dict[str, str]:
    """Write each class of a result as a segment; return class name -> segment ID.

    Voxels keep the labels' own grid and land at the labels' place in the world, whatever the
    transforms of volume and segmentation; the volume gives the segmentation's reference geometry.
    A replaced segment gets new voxels and keeps its ID, name, color, terminology and display.
    A new one gets the class's name, color and terminology. Other segments do not change.

    :param segment_ids: class name -> ID of the segment to replace; an ID that no longer exists
        is given to a new segment. Classes without one replace the segment of the same name that
        an earlier result made, while segments that the user made are replaced only if listed.
    :param protect: IDs of segments whose voxels no class gets. A class that would replace one of
        them is left out, of the returned IDs too.
    :param overwrite: IDs of segments that lose the voxels that a class gets. In all lists,
        IDs that do not exist are passed over, and ``protect`` goes first.
    :param spare: as ``protect``; but a class gets there what was ``painted`` of it, the result's values in the world.

    Raises :class:`PromptSegError` when the segmentation is made of surfaces, when its transform
    would shear the voxels, or when either node is under a non-linear transform.
    """
    what = label_of(segmentation_node)
    segmentation = segmentation_node.GetSegmentation()
    if not segmentation.GetNumberOfSegments():
        segmentation.SetSourceRepresentationName(BINARY)
    check_writable(segmentation_node, volume_node)
    matrix = np.linalg.inv(node_to_world(segmentation_node)) @ image_to_world(result.labels)
    orthogonal(matrix, result.labels.GetSize(), what)
    locked, spared = ([one for one in dict.fromkeys(ids) if segmentation.GetSegment(one)] for ids in (protect, spare))
    targets = _targets(segmentation, result, segment_ids or {})
    classes = [info for info in result.classes if targets.get(info.name) not in [*locked, *spared]]
    kept = {info.name: targets[info.name] for info in classes if segmentation.GetSegment(targets.get(info.name, ""))}
    giving = [one for one in dict.fromkeys(overwrite) if one not in [*locked, *spared] and one not in kept.values()]
    giving = [one for one in giving if segmentation.GetSegment(one)]
    above, around = (look(segmentation_node, volume_node, each).segments.values() for each in (locked, spared))
    own = None if painted is None else layer_of(painted, segmentation_node)
    voxels, start = accepted(result, classes, matrix, above, around, own)
    layer = labelmap_of(voxels, start, matrix)

    ids = {}
    with _one_change(segmentation_node):
        segmentation_node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
        if segmentation_node.GetDisplayNode() is None:
            segmentation_node.CreateDefaultDisplayNodes()
        leave_layers(segmentation, set(kept.values()))
        changed = give_way(segmentation, giving, layer) if giving else []
        for info in classes:
            ids[info.name] = _write_segment(segmentation, info, targets.get(info.name, ""), layer)
        renew_derived(segmentation, [*kept.values(), *changed])
        place_empty(segmentation)
    return ids


def _write_segment(segmentation, info: ClassInfo, segment_id: str, layer: Any) -> str:
    """Give a class's segment its voxels in a shared layer, or make one, with the class's name, color and terminology;
    returns its ID, which is ``segment_id`` where there is one."""
    segment = segmentation.GetSegment(segment_id)
    if segment is not None:
        segment.SetLabelValue(info.value)
        segment.AddRepresentation(BINARY, layer)
        return segmentation.GetSegmentIdBySegment(segment)
    segment = slicer.vtkSegment()
    segment.SetName(info.name)
    segment.SetColor(info.color)
    segment.NameAutoGeneratedOff()
    segment.ColorAutoGeneratedOff()
    segment.SetTag(RESULT_TAG, "1")
    if info.terminology:
        segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), info.terminology)
    segment.SetLabelValue(info.value)
    segment.AddRepresentation(BINARY, layer)
    if not segmentation.AddSegment(segment, segment_id):
        raise RuntimeError(f"{segmentation} did not accept segment '{info.name}'")
    return segmentation.GetSegmentIdBySegment(segment)


def _targets(segmentation, result: Segmentation, segment_ids: Mapping[str, str]) -> dict[str, str]:
    """Class name -> ID of the segment that the class replaces."""
    targets = {}
    for info in result.classes:
        if info.name in segment_ids:
            targets[info.name] = segment_ids[info.name]
    classes = [info.name for info in result.classes]
    for segment_id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segment_id)
        if segment.HasTag(RESULT_TAG) and segment_id not in targets.values():
            name = matching_name(segment.GetName(), classes)
            if name is not None:
                targets.setdefault(name, segment_id)
    return {info.name: targets[info.name] for info in result.classes if info.name in targets}


@contextmanager
def _one_change(node):
    """Observers of the node hear of one modification."""
    was_modifying = node.StartModify()
    try:
        yield
    finally:
        node.EndModify(was_modifying)
