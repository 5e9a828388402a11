"""What was annotated and applied, kept in the scene, so that corrections survive saving and opening.

Each label image is a labelmap volume node, hidden and without a display node, that the segmentation
refers to. Segments would not do: a saved segmentation resamples layers that lie on different
lattices, as a result on the image and strokes painted on another grid may.
"""

from __future__ import annotations

from typing import Iterator, Mapping

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from . import links
from .labelmaps import scalars_of
from .placement import image_of, image_to_world, label_of, node_to_world, orthogonal, to_vtk, volume_to_world

MEMORY_ROLE = "PromptSegMemory"
_OWNER_ROLE = "PromptSegMemoryOf"
_KEY = "PromptSeg.MemoryKey"


def write_memory(segmentation_node, images: Mapping[str, sitk.Image]) -> None:
    """Keep label images (3D, world LPS, uint8 or uint16) with a segmentation, instead of what was kept before.

    The nodes get the segmentation's parent transform, so that they move with it.

    :param images: name ("applied", "strokes") -> image. All its voxels are copied,
        here and by :func:`read_memory`: :func:`.lattices.cropped`, in any thread, leaves few of them.

    Raises :class:`PromptSegError`, and leaves the scene as it was, when the segmentation's transform
    is non-linear or would shear the voxels.
    """
    what = label_of(segmentation_node)
    from_world = np.linalg.inv(node_to_world(segmentation_node))
    matrices = {key: from_world @ image_to_world(image) for key, image in images.items()}
    for key, matrix in matrices.items():
        orthogonal(matrix, images[key].GetSize(), what)
    scene = segmentation_node.GetScene()
    nodes = {node.GetAttribute(_KEY): node for node in _nodes(segmentation_node)}
    for key in set(nodes) - set(images):
        links.remove(nodes.pop(key))
    segmentation_node.RemoveNodeReferenceIDs(MEMORY_ROLE)  # a clone's may name the memory of its original
    for key, image in images.items():
        node = nodes.get(key) or _new_node(scene, segmentation_node, key)
        voxels = sitk.GetArrayViewFromImage(image)
        data = vtk.vtkImageData()
        data.SetDimensions(image.GetSize())
        data.GetPointData().SetScalars(scalars_of(voxels))
        node.SetName(f"{segmentation_node.GetName()} {key} (PromptSeg memory)")
        node.SetAndObserveTransformNodeID(segmentation_node.GetTransformNodeID())
        node.SetIJKToRASMatrix(to_vtk(matrices[key]))
        node.SetAndObserveImageData(data)
        segmentation_node.AddNodeReferenceID(MEMORY_ROLE, node.GetID())


def read_memory(segmentation_node) -> dict[str, sitk.Image]:
    """What :func:`write_memory` kept, where it lies in the world now; {} when there is nothing.

    Raises :class:`PromptSegError` under a transform that has become non-linear or shears the voxels.
    """
    images = {}
    for node in _nodes(segmentation_node):
        data = node.GetImageData()
        scalars = data.GetPointData().GetScalars() if data is not None else None
        if scalars is None or not _is_labels(scalars):  # anybody may write into a scene
            continue
        matrix = volume_to_world(node)
        matrix[:, 3] = matrix @ [*data.GetExtent()[::2], 1.0]
        voxels = vtk_to_numpy(scalars).reshape(data.GetDimensions()[::-1])
        images[node.GetAttribute(_KEY)] = image_of(voxels, matrix, label_of(segmentation_node))
    return images


def _is_labels(scalars) -> bool:
    """Whether these are what :func:`write_memory` writes: one whole number a voxel, of 16 bits at most."""
    kinds = (vtk.VTK_UNSIGNED_CHAR, vtk.VTK_UNSIGNED_SHORT)
    return scalars.GetNumberOfComponents() == 1 and scalars.GetNumberOfTuples() > 0 and scalars.GetDataType() in kinds


def forget_orphans(scene) -> None:
    """Remove what was kept with segmentations that are gone."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode")
    for node in [scene.GetNthNodeByClass(n, "vtkMRMLLabelMapVolumeNode") for n in range(count)]:
        if node.GetAttribute(_KEY) and node.GetNodeReference(_OWNER_ROLE) is None:
            links.remove(node)


def _nodes(segmentation_node) -> Iterator:
    """The memory's nodes. A clone of a segmentation has its original's references, but not its memory."""
    for n in range(segmentation_node.GetNumberOfNodeReferences(MEMORY_ROLE)):
        node = segmentation_node.GetNthNodeReference(MEMORY_ROLE, n)
        if node is not None and node.GetAttribute(_KEY) and node.GetNodeReference(_OWNER_ROLE) is segmentation_node:
            yield node


def _new_node(scene, segmentation_node, key: str):
    node = slicer.vtkMRMLLabelMapVolumeNode()
    node.HideFromEditorsOn()  # before it is added, so that nobody sees it come
    node.SetAttribute(_KEY, key)
    node.SetNodeReferenceID(_OWNER_ROLE, segmentation_node.GetID())
    return scene.AddNode(node)
