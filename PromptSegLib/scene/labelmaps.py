"""Labelmaps of segments: ``vtkOrientedImageData`` to arrays and back.

Arrays are (k, j, i); matrices map indices (i, j, k, 1) to the segmentation's own RAS mm.
"""

from __future__ import annotations

from typing import Optional

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import get_vtk_array_type, vtk_to_numpy

from ..errors import PromptSegError
from .placement import label_of, node_to_world, orthogonal, to_array, to_vtk, volume_to_world

BINARY = "Binary labelmap"
_BLOCK = 1 << 18  # voxels looked at at a time, so that they stay in the processor's cache
_LEAP = 16


def matrix_of(labelmap) -> np.ndarray:
    """(4, 4): indices of an oriented image to the segmentation's RAS mm."""
    matrix = vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(matrix)
    return to_array(matrix)


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
    """Whether a segment has neither a voxel nor, where it has no labelmap, a surface."""
    segment = segmentation.GetSegment(segment_id)
    labelmap = segment.GetRepresentation(BINARY)
    if labelmap is not None:
        return is_blank(labelmap) or not holds(voxels_of(labelmap), segment.GetLabelValue())
    return not _is_surface(segmentation, segment_id)


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
    """Segment ID -> (labelmap, label value); what has only a surface is voxelised in a copy, what has nothing is None.

    :param volume_node: gives the grid on which surfaces are voxelised; may be None when there are none.

    Raises :class:`PromptSegError` when a surface cannot be voxelised.
    """
    segmentation = segmentation_node.GetSegmentation()
    surfaces = [one for one in segment_ids if _is_surface(segmentation, one)]
    copy = _voxelised(segmentation_node, volume_node, surfaces) if surfaces else segmentation
    found = {}
    for segment_id in segment_ids:
        segment = (copy if segment_id in surfaces else segmentation).GetSegment(segment_id)
        found[segment_id] = (segment.GetRepresentation(BINARY), segment.GetLabelValue())
    return found


def _is_surface(segmentation, segment_id: str) -> bool:
    segment = segmentation.GetSegment(segment_id)
    source = segment.GetRepresentation(segmentation.GetSourceRepresentationName())
    if source is None or segment.GetRepresentation(BINARY) is not None:
        return False
    return not source.IsA("vtkPolyData") or source.GetNumberOfPoints() > 0


def _voxelised(segmentation_node, volume_node, surfaces: list[str]):
    """A ``vtkSegmentation`` with the segments of ``surfaces``, as binary labelmaps on the volume's grid."""
    segmentation = segmentation_node.GetSegmentation()
    copy = slicer.vtkSegmentation()
    copy.SetSourceRepresentationName(segmentation.GetSourceRepresentationName())
    copy.CopyConversionParameters(segmentation)
    if volume_node is None:
        raise PromptSegError(
            f"{label_of(segmentation_node)} is made of surfaces; choose the volume that it belongs to."
        )
    matrix = np.linalg.inv(node_to_world(segmentation_node)) @ volume_to_world(volume_node)
    data = volume_node.GetImageData()
    if data is None:
        raise PromptSegError(f"{label_of(volume_node)} has no voxels; load or choose another volume.")
    orthogonal(matrix, data.GetDimensions(), label_of(volume_node))
    converter = slicer.vtkSegmentationConverter
    copy.SetConversionParameter(
        converter.GetReferenceImageGeometryParameterName(), converter.SerializeImageGeometry(to_vtk(matrix), data)
    )
    for segment_id in surfaces:
        copy.CopySegmentFromSegmentation(segmentation, segment_id)
    if not copy.CreateRepresentation(BINARY):
        raise PromptSegError(
            f"{label_of(segmentation_node)} cannot be converted to voxels; "
            "create its binary labelmap in the Segmentations module."
        )
    return copy
