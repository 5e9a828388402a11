"""Nodes of images, segments by their names, and examples of nodes."""

from __future__ import annotations

from typing import Mapping, Optional

import SimpleITK as sitk
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from PromptSegLib.annotation.example import Example
from PromptSegLib.imaging.geometry import Grid, resample
from PromptSegLib.scene.placement import image_to_world, to_vtk
from PromptSegLib.scene.segment_snapshot import snapshot
from PromptSegLib.scene.volumes import voxels_of_volume


def volume_from_image(scene, image: sitk.Image, name: str):
    """A new ``vtkMRMLScalarVolumeNode`` called ``name`` in ``scene``, with a copy of a 3D scalar image (LPS mm)."""
    data = vtk.vtkImageData()
    data.SetDimensions(image.GetSize())
    data.GetPointData().SetScalars(numpy_to_vtk(sitk.GetArrayViewFromImage(image).ravel(), deep=True))
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(scene.GenerateUniqueName(name) if scene.GetFirstNodeByName(name) else name)
    node.SetIJKToRASMatrix(to_vtk(image_to_world(image)))
    node.SetAndObserveImageData(data)
    node = scene.AddNode(node)
    node.CreateDefaultDisplayNodes()
    return node


def image_from_volume(volume_node) -> sitk.Image:
    """A copy of a volume as the library sees it, in the world (LPS mm)."""
    found = voxels_of_volume(volume_node)
    return found.grid.image(found.array)


def annotation_from_segmentation(segmentation_node, volume_node, roles: Mapping[str, int]) -> sitk.Image:
    """What is painted, as a label image: segment ID -> value."""
    return snapshot(segmentation_node, volume_node, roles).labels(roles)


def segments_by_name(segmentation_node) -> dict[str, str]:
    """Segment name -> segment ID, in the segmentation's order; the first of several with one name."""
    segmentation = segmentation_node.GetSegmentation()
    names: dict[str, str] = {}
    for segment_id in segmentation.GetSegmentIDs():
        names.setdefault(segmentation.GetSegment(segment_id).GetName(), segment_id)
    return names


def example_from_nodes(
    volume_node, segmentation_node, roles: Mapping[str, int], background: Optional[int] = None, complete: bool = False
) -> Example:
    """An :class:`~PromptSegLib.annotation.example.Example` in world space.

    :param volume_node: vtkMRMLScalarVolumeNode.
    :param segmentation_node: vtkMRMLSegmentationNode; may lie under another (linear) transform.
    :param roles: segment ID -> annotation value; segments that are not listed are ignored.
    :param background: the value (of ``roles``) that marks known background.
    :param complete: unpainted voxels are background, to the borders of the volume.

    Raises :class:`PromptSegError` as :func:`image_from_volume` and :func:`annotation_from_segmentation` do.
    """
    image = image_from_volume(volume_node)
    annotation = annotation_from_segmentation(segmentation_node, volume_node, roles)
    if complete:
        # The labelmap of a segmentation ends where the paint ends; what lies beyond is unpainted, not unknown.
        annotation = resample(annotation, Grid.of(image), sitk.sitkNearestNeighbor, 0)
    return Example(image, annotation, background, complete, volume_node.GetName() or "volume")
