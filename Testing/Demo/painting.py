"""A user's strokes and a result's labels, written to and read from segmentation nodes."""

from __future__ import annotations

from typing import Mapping, Optional, Sequence

import SimpleITK as sitk
import slicer

from PromptSegLib.annotation.classes import ClassInfo
from PromptSegLib.imaging.geometry import Grid, resample
from PromptSegLib.inference.result import Segmentation
from PromptSegLib.scene.segment_snapshot import snapshot
from PromptSegLib.scene.segmentations import RESULT_TAG, apply_result


def new_segmentation(scene, name: str):
    """An empty ``vtkMRMLSegmentationNode`` called ``name``."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    return node


def paint(
    segmentation_node,
    volume_node,
    scribbles: sitk.Image,
    segments: Sequence[ClassInfo],
    segment_ids: Optional[Mapping[str, str]] = None,
) -> dict[str, str]:
    """Put a label volume of scribbles into a segmentation node, as if a user had painted them; name -> segment ID.

    :param segment_ids: segments painted before, which get these scribbles instead.
    """
    ids = apply_result(segmentation_node, volume_node, Segmentation(scribbles, tuple(segments)), segment_ids)
    for segment_id in ids.values():
        # Segments with this tag may be overwritten by the next result; what a user painted may not.
        segmentation_node.GetSegmentation().GetSegment(segment_id).RemoveTag(RESULT_TAG)
    return ids


def labels_in(segmentation_node, volume_node, roles: Mapping[str, int], like: sitk.Image) -> sitk.Image:
    """The voxels of segments (ID -> label value) as a label volume on the grid of ``like``."""
    labels = snapshot(segmentation_node, volume_node, roles).labels(roles)
    return resample(labels, Grid.of(like), sitk.sitkNearestNeighbor, 0)


def surfaces_of(segmentation_node, segment_ids: Mapping[str, str]) -> dict:
    """Closed surfaces of segments (name -> ID) as name -> ``vtkPolyData`` in RAS mm, without those that are empty.

    The node keeps its surfaces, so that the saved scene shows them in 3D.
    """
    segmentation_node.CreateClosedSurfaceRepresentation()
    kind = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    segmentation = segmentation_node.GetSegmentation()
    surfaces = {name: segmentation.GetSegment(one).GetRepresentation(kind) for name, one in segment_ids.items()}
    return {name: surface for name, surface in surfaces.items() if surface is not None and surface.GetNumberOfCells()}
