"""A volume and painted segments as an example."""

from __future__ import annotations

from typing import Mapping, Optional

import SimpleITK as sitk

from ..annotation.example import Example
from ..imaging.geometry import Grid, resample
from .segmentations import annotation_from_segmentation
from .volumes import image_from_volume


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
