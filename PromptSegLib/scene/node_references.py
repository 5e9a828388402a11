"""The segmentation that belongs to a volume: remembered with the scene, made anew, and told by where it lies."""

from __future__ import annotations

from functools import partial
from typing import Callable, Iterator

import numpy as np

from ..errors import PromptSegError
from .labelmaps import BINARY, is_blank, matrix_of, voxels_of
from .placement import in_xml, label_of, node_to_world, volume_to_world

SEGMENTATION_ROLE = "PromptSegSegmentation"
_OWNER_ROLE = "PromptSegSegmentationOf"  # of the reference from a volume to itself


def remember(volume_node, segmentation_node) -> None:
    """Make a segmentation the one that belongs to a volume; None forgets. Saved with the scene."""
    segmentation_id = segmentation_node.GetID() if segmentation_node is not None else None
    owner_id = volume_node.GetID() if segmentation_node is not None else None
    for role, node_id in ((SEGMENTATION_ROLE, segmentation_id), (_OWNER_ROLE, owner_id)):
        if volume_node.GetNodeReferenceID(role) != node_id:
            volume_node.SetNodeReferenceID(role, node_id)


def remembered(volume_node):
    """The segmentation node that belongs to a volume, or None when there is none or it was deleted."""
    if volume_node.GetNodeReferenceID(_OWNER_ROLE) and volume_node.GetNodeReference(_OWNER_ROLE) is not volume_node:
        return None  # a clone's, which has its original's references: that is drawn on the original
    node = volume_node.GetNodeReference(SEGMENTATION_ROLE)
    return node if node is not None and node.IsA("vtkMRMLSegmentationNode") else None


def renew(scene) -> None:
    """Let the volumes of a scene of an earlier version, which did not note it, be told from clones made later."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    for node in [scene.GetNthNodeByClass(n, "vtkMRMLScalarVolumeNode") for n in range(count)]:
        segmentation = remembered(node)
        if segmentation is not None:
            remember(node, segmentation)


def new_segmentation(scene, volume_node, name: str):
    """A new, empty segmentation node to paint on a volume: its voxel grid, its parent transform, a display node.

    The name is made unique in the scene, and "&" becomes "and": the node's file in a saved scene is called as the node,
    and Slicer does not escape that letter in the scene's XML, which then can never be read again.
    Raises :class:`PromptSegError` when the volume has no voxels or is under a non-linear transform.
    """
    volume_to_world(volume_node)
    if volume_node.GetImageData() is None:
        raise PromptSegError("{label_of} has no voxels; load or choose another volume.", label_of=label_of(volume_node))
    name = in_xml(name.replace("&", "and"))
    if scene.GetFirstNodeByName(name):
        name = scene.GenerateUniqueName(name)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.GetSegmentation().SetSourceRepresentationName(BINARY)
    # First the transform: the reference geometry is kept in the segmentation's own coordinates.
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    node.CreateDefaultDisplayNodes()
    return node


def same_place(volume_node, segmentation_node) -> bool:
    """Whether a segmentation can belong to a volume: False when what it holds lies entirely outside the volume.

    Compares boxes, not voxels: one around each labelmap or surface, and the volume's own. An empty
    segmentation fits everywhere. Raises :class:`PromptSegError` under non-linear transforms.
    """
    data = volume_node.GetImageData()
    if data is None:
        raise PromptSegError("{label_of} has no voxels; load or choose another volume.", label_of=label_of(volume_node))
    to_volume = np.linalg.inv(volume_to_world(volume_node)) @ node_to_world(segmentation_node)
    low, high = (np.asarray(data.GetExtent(), float).reshape(3, 2) + (-0.5, 0.5)).T
    outside = False
    for ends, to_segmentation, painted in _boxes(segmentation_node.GetSegmentation()):
        matrix = to_volume @ to_segmentation
        corners = np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3]
        if (corners.max(0) > low).all() and (corners.min(0) < high).all():
            return True
        outside = outside or painted()
    return not outside


def _boxes(segmentation) -> Iterator[tuple[np.ndarray, np.ndarray, Callable[[], bool]]]:
    """Around each labelmap and surface: ends (3, 2), (4, 4) from their coordinates to the node's, is it not blank."""
    seen = set()
    for segment_id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segment_id)
        labelmap = segment.GetRepresentation(BINARY)
        if labelmap is not None:
            if is_blank(labelmap) or labelmap.GetAddressAsString("") in seen:
                continue
            seen.add(labelmap.GetAddressAsString(""))
            ends = np.asarray(labelmap.GetExtent(), float).reshape(3, 2) + (-0.5, 0.5)
            yield ends, matrix_of(labelmap), partial(_any_voxel, labelmap)
            continue
        surface = segment.GetRepresentation(segmentation.GetSourceRepresentationName())
        if surface is not None and surface.IsA("vtkPolyData") and surface.GetNumberOfPoints():
            yield np.reshape(surface.GetBounds(), (3, 2)), np.eye(4), lambda: True


def _any_voxel(labelmap) -> bool:
    return bool(voxels_of(labelmap).any())
