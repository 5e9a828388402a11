"""How nodes of a scene belong together, and hearing when they go away."""

from __future__ import annotations

from functools import partial
from typing import Callable, Iterator

import numpy as np
import slicer
import vtk

from ..errors import PromptSegError
from .labelmaps import BINARY, is_blank, matrix_of, voxels_of
from .placement import in_xml, label_of, node_to_world, volume_to_world

SEGMENTATION_ROLE = "PromptSegSegmentation"
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


def remember(volume_node, segmentation_node) -> None:
    """Make a segmentation the one that belongs to a volume; None forgets. Saved with the scene."""
    segmentation_id = segmentation_node.GetID() if segmentation_node is not None else None
    if volume_node.GetNodeReferenceID(SEGMENTATION_ROLE) != segmentation_id:
        volume_node.SetNodeReferenceID(SEGMENTATION_ROLE, segmentation_id)


def remembered(volume_node):
    """The segmentation node that belongs to a volume, or None when there is none or it was deleted."""
    node = volume_node.GetNodeReference(SEGMENTATION_ROLE)
    return node if node is not None and node.IsA("vtkMRMLSegmentationNode") else None


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


def alive(scene, node) -> bool:
    """Whether a node is (still) in a scene; False for None."""
    return node is not None and scene is not None and bool(scene.IsNodePresent(node))


def remove(node) -> None:
    """Take a node out of its scene, with its display and storage nodes; None or a node in no scene is passed over."""
    scene = node.GetScene() if node is not None else None
    if scene is None:
        return
    parts = []
    if node.IsA("vtkMRMLDisplayableNode"):
        parts += [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    if node.IsA("vtkMRMLStorableNode"):
        parts += [node.GetNthStorageNode(n) for n in range(node.GetNumberOfStorageNodes())]
    scene.RemoveNode(node)
    for part in parts:
        if alive(scene, part):
            scene.RemoveNode(part)


def watch(
    scene,
    on_removed: Callable[[object], None],
    on_closing: Callable[[], None],
    on_closed: Callable[[], None],
    on_imported: Callable[[], None] = lambda: None,
) -> Callable[[], None]:
    """Call back when a node was removed from a scene, before and after the scene is closed, and when nodes were
    read into it.

    While a scene is being closed, nodes that go with it are not reported one by one.

    :param on_removed: gets the node; it is in no scene any more.
    :return: a function that ends the watching; it may be called more than once.
    """

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def removed(_scene, _event, node) -> None:
        if node is not None and not scene.IsClosing():
            on_removed(node)

    tags = [
        scene.AddObserver(slicer.vtkMRMLScene.NodeRemovedEvent, removed),
        scene.AddObserver(slicer.vtkMRMLScene.StartCloseEvent, lambda *_: on_closing()),
        scene.AddObserver(slicer.vtkMRMLScene.EndCloseEvent, lambda *_: on_closed()),
        scene.AddObserver(slicer.vtkMRMLScene.EndImportEvent, lambda *_: on_imported()),
    ]

    def unwatch() -> None:
        while tags:
            scene.RemoveObserver(tags.pop())

    return unwatch
