"""Segmentation nodes: painted segments under chains of transforms, and what is in them; and slice views."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from harness.mrml_volumes import put_under, ras, rotation
from harness.scene_files import new_scene
from harness.scene_nodes import volume_from_image
from PromptSegLib.annotation.classes import ClassInfo, describe
from PromptSegLib.scene.placement import node_to_world, to_array, to_vtk
from PromptSegLib.scene.segmentations import BINARY

SURFACE = "Closed surface"


SIZE = (14, 12, 10)  # x, y, z


CLASSES = (describe("liver", 1), describe("left kidney", 2), ClassInfo("lesion", 5, (0.9, 0.6, 0.0)))


# Volume and segmentation, each under its own chain of transforms.
TRANSFORMS = {
    "none": ([], []),
    "volume +7": ([ras(offset=(7, 0, 0))], []),
    "segmentation rotated": ([], [ras(rotation(10, 20, 30), (4, -9, 2))]),
    "both": ([ras(rotation(0, 0, 40)), ras(rotation(12), (1, 2, 3))], [ras(rotation(-30, 5, 8), (40, 0, -7))]),
    "same kind of scaling": ([ras(np.eye(3) * 1.25)], [ras(rotation(5) * 2, (1, 1, 1))]),
}


def blank(direction=None, size=SIZE):
    image = sitk.Image(size, sitk.sitkInt16)
    image.SetSpacing((0.8, 1.1, 2.5))
    image.SetOrigin((-20, 13, 4))
    image.SetDirection(np.eye(3).ravel() if direction is None else np.ravel(direction))
    return image


def labels_like(image, dtype=np.uint8):
    """Asymmetric shapes with values 1, 2 and 5."""
    array = np.zeros(image.GetSize()[::-1], dtype)
    array[2:6, 3:8, 2:9] = 1
    array[5:8, 6:11, 7:13] = 2
    array[7, 2:4, 3] = 5
    labels = sitk.GetImageFromArray(array)
    labels.CopyInformation(image)
    return labels


def add_segment(node, array, name, start=(0, 0, 0), matrix=None, value=1, layer=None):
    """A painted segment: array (k, j, i) at index ``start`` (i, j, k) of a lattice; or one on an existing layer."""
    if layer is None:
        layer = slicer.vtkOrientedImageData()
        ends = [end for at, n in zip(start, array.shape[::-1]) for end in (at, at + n - 1)]
        layer.SetExtent(ends)
        layer.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=True))
        layer.SetImageToWorldMatrix(to_vtk(np.eye(4) if matrix is None else matrix))
    segment = slicer.vtkSegment()
    segment.SetName(name)
    segment.SetLabelValue(value)
    segment.AddRepresentation(BINARY, layer)
    assert node.GetSegmentation().AddSegment(segment, f"id-{name}")
    return f"id-{name}", layer


def voxels_of(node, segment_id):
    segment = node.GetSegmentation().GetSegment(segment_id)
    layer = segment.GetRepresentation(BINARY)
    matrix = vtk.vtkMatrix4x4()
    layer.GetImageToWorldMatrix(matrix)
    array = vtk_to_numpy(layer.GetPointData().GetScalars()).reshape(layer.GetDimensions()[::-1])
    return (array == segment.GetLabelValue()).copy(), layer.GetExtent(), to_array(matrix)


def same_voxels(before, after):
    return np.array_equal(before[0], after[0]) and before[1] == after[1] and np.array_equal(before[2], after[2])


def world_points(image, value):
    """Sorted physical points (n, 3) of the voxels with a value."""
    found = np.argwhere(sitk.GetArrayViewFromImage(image) == value)[:, ::-1]
    points = [image.TransformIndexToPhysicalPoint(tuple(int(i) for i in index)) for index in found]
    return np.array(sorted(tuple(np.round(point, 6)) for point in points)).reshape(-1, 3)


def world_of(mask, matrix, transforms, start=(0, 0, 0)):
    """World RAS (n, 3) of the voxels (k, j, i) of a mask that begins at index ``start``, in array order."""
    for one in reversed(transforms):
        matrix = one @ matrix
    indices = np.argwhere(mask)[:, ::-1] + np.asarray(start)
    return indices @ matrix[:3, :3].T + matrix[:3, 3]


def setup_nodes(transforms=((), ()), direction=None):
    scene = new_scene()
    volume = volume_from_image(scene, blank(direction), "CT")
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
    for target, matrices in zip((volume, node), transforms):
        if matrices:
            put_under(scene, target, *matrices)
    return scene, volume, node


DIRECTIONS = {
    "upright": np.eye(3),
    "oblique": rotation(20, -35, 10),
    "left-handed": rotation(5) @ np.diag([1.0, 1.0, -1.0]),
}


def ijk_to_ras(volume):
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return to_array(matrix)


def user_segmentation(transforms=((), ()), aligned=False):
    """Two user segments on one shared layer and one overlapping them on a layer of its own.

    ``aligned`` puts them on the volume's voxels in the world too, as painting in the application does.
    """
    scene, volume, node = setup_nodes(transforms)
    array = np.zeros((5, 6, 7), np.uint8)
    array[1:3, 1:4, 1:5], array[3:5, 3:6, 2:6] = 3, 4
    matrix = ijk_to_ras(volume)
    if aligned:
        matrix = np.linalg.inv(node_to_world(node)) @ node_to_world(volume) @ matrix
    first, layer = add_segment(node, array, "liver", (2, 3, 1), matrix, 3)
    second, _ = add_segment(node, array, "tumour", value=4, layer=layer)
    over = np.zeros((4, 4, 4), np.uint8)
    over[1:4, 1:4, 1:4] = 1
    third, _ = add_segment(node, over, "over", (3, 4, 2), matrix)
    return volume, node, first, second, third


def bent(scene):
    transform = scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
    grid = vtk.vtkThinPlateSplineTransform()
    points, moved = vtk.vtkPoints(), vtk.vtkPoints()
    for n, point in enumerate([(0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9), (9, 9, 9)]):
        points.InsertNextPoint(point)
        moved.InsertNextPoint(np.asarray(point) + [n % 2, n % 3, 0])
    grid.SetSourceLandmarks(points)
    grid.SetTargetLandmarks(moved)
    transform.SetAndObserveTransformToParent(grid)
    return transform.GetID()


def add_views(scene):
    """Slice nodes and composite nodes of three views."""
    views = []
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
    for name, orientation in (("Red", "Axial"), ("Green", "Coronal"), ("Yellow", "Sagittal")):
        view = scene.AddNewNodeByClass("vtkMRMLSliceNode", name)
        view.SetLayoutName(name)
        view.SetOrientation(orientation)
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetLayoutName(name)
        views.append((view, scene.AddNode(composite)))
    return views
