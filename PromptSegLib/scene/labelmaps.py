"""Labelmaps of segments: ``vtkOrientedImageData`` to arrays and back.

Arrays are (k, j, i); matrices map indices (i, j, k, 1) to the segmentation's own RAS mm.
"""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import get_vtk_array_type, vtk_to_numpy

from ..errors import PromptSegError
from .placement import label_of, node_to_world, orthogonal, to_array, to_vtk, volume_to_world

BINARY = "Binary labelmap"
_REFERENCE = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
_BLOCK = 1 << 18  # voxels looked at at a time, so that they stay in the processor's cache
_LEAP = 16
# Voxels of a labelmap around a volume and a surface: by which factor more than the volume has, or as many in any case.
_MOST_TIMES, _MOST_ANYWAY = 8, 1 << 27


def matrix_of(labelmap) -> np.ndarray:
    """(4, 4): indices of an oriented image to the segmentation's RAS mm."""
    matrix = vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(matrix)
    return to_array(matrix)


def reference_of(segmentation) -> Optional[np.ndarray]:
    """(4, 4): indices of the voxel grid that a segmentation was given to its RAS mm; None where it has none."""
    geometry, given = slicer.vtkOrientedImageData(), segmentation.GetConversionParameter(_REFERENCE)
    if not given or not slicer.vtkSegmentationConverter.DeserializeImageGeometry(given, geometry, False):
        return None
    return matrix_of(geometry)


def voxels_of(labelmap) -> np.ndarray:
    """View (k, j, i) of an oriented image that is not empty; valid only while the image keeps its voxels."""
    return vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(labelmap.GetDimensions()[::-1])


def is_blank(labelmap) -> bool:
    """Whether an oriented image is None or has no voxels at all."""
    return labelmap is None or labelmap.IsEmpty() or labelmap.GetPointData().GetScalars() is None


def holds(voxels: np.ndarray, label: int) -> bool:
    """Whether any voxel has a label."""
    flat = voxels.reshape(-1)
    blocks = -(-flat.size // _BLOCK)
    # With leaps first: an organ is met after a few blocks, not after half of the volume.
    order = (block for first in range(_LEAP) for block in range(first, blocks, _LEAP))
    return any((flat[at * _BLOCK : (at + 1) * _BLOCK] == label).any() for at in order)


def is_empty(segmentation, segment_id: str) -> bool:
    """Whether a segment has neither a voxel nor anything else that voxels can be made of."""
    name = representation_of(segmentation, segment_id)
    if name != BINARY:
        return not name
    segment = segmentation.GetSegment(segment_id)
    return not holds(voxels_of(segment.GetRepresentation(BINARY)), segment.GetLabelValue())


def representation_of(segmentation, segment_id: str) -> str:
    """The name of the representation that says where a segment is; "" where it is nowhere.

    The binary labelmap where it is the source, or was made of the source; otherwise the source, as long as it holds
    something, and at last whatever does.
    """
    segment, source = segmentation.GetSegment(segment_id), segmentation.GetSourceRepresentationName()
    labelmap = segment.GetRepresentation(BINARY)
    if labelmap is not None and source == BINARY:
        return "" if is_blank(labelmap) else BINARY
    # Made of the source for all segments, perhaps without success for one of them.
    if not is_blank(labelmap) and holds(voxels_of(labelmap), segment.GetLabelValue()):
        return BINARY
    names: list[str] = []
    segment.GetContainedRepresentationNames(names)
    candidates = [source, *sorted(names, key=lambda name: name != BINARY)]
    return next((name for name in candidates if _holds_anything(segment.GetRepresentation(name))), "")


def _holds_anything(data) -> bool:
    if data is None:
        return False
    if data.IsA("vtkOrientedImageData"):
        return not is_blank(data)
    return not data.IsA("vtkPolyData") or data.GetNumberOfPoints() > 0


def scalars_of(voxels: np.ndarray):
    """A copy of an array as a VTK array of its own; the array need not be contiguous."""
    scalars = vtk.vtkDataArray.CreateDataArray(get_vtk_array_type(voxels.dtype))
    scalars.SetNumberOfTuples(voxels.size)
    np.copyto(vtk_to_numpy(scalars).reshape(voxels.shape), voxels)
    return scalars


def labelmap_of(voxels: Optional[np.ndarray], start: np.ndarray, matrix: np.ndarray):
    """An oriented image with a copy of ``voxels`` (None: an empty one) that begins at index ``start`` (i, j, k)."""
    labelmap = slicer.vtkOrientedImageData()
    if voxels is None:
        labelmap.SetExtent(0, -1, 0, -1, 0, -1)
        labelmap.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    else:
        ends = [(int(at), int(at) + extent - 1) for at, extent in zip(start, voxels.shape[::-1])]
        labelmap.SetExtent([end for pair in ends for end in pair])
        labelmap.GetPointData().SetScalars(scalars_of(voxels))
    labelmap.SetImageToWorldMatrix(to_vtk(matrix))
    return labelmap


def labelmaps_of(segmentation_node, volume_node, segment_ids: list[str]) -> dict[str, tuple]:
    """Segment ID -> (labelmap, label value); what has no labelmap is voxelised in a copy, what has nothing is None.

    :param volume_node: gives the grid on which surfaces are voxelised; may be None when there are none.

    Raises :class:`PromptSegError` when a surface cannot be voxelised, or has no voxel.
    """
    segmentation = segmentation_node.GetSegmentation()
    found: dict[str, tuple] = {}
    made_of: dict[str, list[str]] = {}
    for segment_id in segment_ids:
        segment, name = segmentation.GetSegment(segment_id), representation_of(segmentation, segment_id)
        found[segment_id] = (segment.GetRepresentation(BINARY) if name == BINARY else None, segment.GetLabelValue())
        if name not in ("", BINARY):
            made_of.setdefault(name, []).append(segment_id)
    for name, ids in made_of.items():
        found.update(_voxelised(segmentation_node, volume_node, ids, name))
    return found


def _voxelised(segmentation_node, volume_node, segment_ids: list[str], name: str) -> dict[str, tuple]:
    """As :func:`labelmaps_of`, of segments whose representation ``name`` is converted on the volume's grid."""
    segmentation = segmentation_node.GetSegmentation()
    copy = slicer.vtkSegmentation()
    copy.SetSourceRepresentationName(name)
    copy.CopyConversionParameters(segmentation)
    if volume_node is None:
        raise PromptSegError(
            "{label_of} is made of surfaces; choose the volume that it belongs to.",
            label_of=label_of(segmentation_node),
        )
    matrix = np.linalg.inv(node_to_world(segmentation_node)) @ volume_to_world(volume_node)
    data = volume_node.GetImageData()
    if data is None:
        raise PromptSegError("{label_of} has no voxels; load or choose another volume.", label_of=label_of(volume_node))
    orthogonal(matrix, data.GetDimensions(), label_of(volume_node))
    for segment_id in segment_ids:
        _check_reach(segmentation.GetSegment(segment_id), name, matrix, data.GetDimensions(), segmentation_node)
    converter = slicer.vtkSegmentationConverter
    copy.SetConversionParameter(
        converter.GetReferenceImageGeometryParameterName(), converter.SerializeImageGeometry(to_vtk(matrix), data)
    )
    for segment_id in segment_ids:
        single = slicer.vtkSegment()
        single.SetName(segmentation.GetSegment(segment_id).GetName())
        single.AddRepresentation(name, segmentation.GetSegment(segment_id).GetRepresentation(name))
        copy.AddSegment(single, segment_id)
    if not copy.CreateRepresentation(BINARY):
        raise PromptSegError(
            "{label_of} cannot be converted to voxels; create its binary labelmap in the Segmentations module.",
            label_of=label_of(segmentation_node),
        )
    # Copies, once for each layer: a segmentation erases its segments' voxels when it goes.
    copies: dict[str, Any] = {}
    return {each: _kept(copy.GetSegment(each), copies, label_of(segmentation_node)) for each in segment_ids}


def _check_reach(segment, name: str, matrix: np.ndarray, size: tuple[int, int, int], node) -> None:
    """Refuse a surface so far from a volume, or so large, that a labelmap around both would take all memory.

    :param matrix: voxel indices of the volume to the segmentation's RAS mm.
    """
    surface = segment.GetRepresentation(name)
    if not surface.IsA("vtkPolyData"):
        return
    ends = np.reshape(surface.GetBounds(), (3, 2))
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3)
    inverse = np.linalg.inv(matrix)
    indices = corners @ inverse[:3, :3].T + inverse[:3, 3]
    extents = np.maximum(indices.max(0), np.asarray(size)) - np.minimum(indices.min(0), 0)
    # Written so that NaN is refused too.
    if not np.prod(extents) <= max(_MOST_TIMES * float(np.prod(size)), _MOST_ANYWAY):
        sides = " x ".join(f"{side:.4g}" for side in ends[:, 1] - ends[:, 0])
        raise PromptSegError(
            "Segment '{segment}' of {what} is a surface of {sides} mm that lies far from the volume or is much larger; "
            "check its unit and place, or give it the role Ignore.",
            segment=segment.GetName(),
            what=label_of(node),
            sides=sides,
        )


def _kept(segment, copies: dict[str, Any], what: str) -> tuple:
    """A copy of a segment's labelmap, which ``copies`` holds by address, and the segment's label."""
    labelmap, label = segment.GetRepresentation(BINARY), segment.GetLabelValue()
    if is_blank(labelmap) or not holds(voxels_of(labelmap), label):
        raise PromptSegError(
            "Segment '{segment}' of {what} has no voxel on the volume's grid; it is too small or open, "
            "give it the role Ignore or create its binary labelmap in the Segmentations module.",
            segment=segment.GetName(),
            what=what,
        )
    address = labelmap.GetAddressAsString("")
    if address not in copies:
        copies[address] = slicer.vtkOrientedImageData()
        copies[address].DeepCopy(labelmap)
    return copies[address], label
