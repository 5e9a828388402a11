"""Volume nodes: images, directions and chains of transforms to put them under."""

from __future__ import annotations

import math

import numpy as np
import SimpleITK as sitk

from PromptSegLib.scene.placement import to_vtk

SIZE = (7, 6, 5)  # x, y, z


def rotation(x=0.0, y=0.0, z=0.0):
    """(3, 3) from angles in degrees."""
    out = np.eye(3)
    for axis, angle in enumerate((x, y, z)):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        one = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        one[i, i], one[i, j], one[j, i], one[j, j] = c, -s, s, c
        out = one @ out
    return out


def ras(axes=None, offset=(0, 0, 0)):
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3) if axes is None else axes
    matrix[:3, 3] = offset
    return matrix


def put_under(scene, node, *matrices):
    """Parent transforms, outermost first; returns the (4, 4) RAS chain."""
    parent, chain = None, np.eye(4)
    for matrix in matrices:
        transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transform.SetMatrixTransformToParent(to_vtk(matrix))
        if parent is not None:
            transform.SetAndObserveTransformNodeID(parent.GetID())
        parent, chain = transform, chain @ matrix
    node.SetAndObserveTransformNodeID(parent.GetID())
    return chain


def random_image(direction=None, spacing=(0.8, 1.1, 2.5), origin=(-20.0, 13.0, 4.0), dtype=np.int16):
    values = np.random.default_rng(1).integers(-1000, 1000, SIZE[::-1]).astype(dtype)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(np.eye(3).ravel() if direction is None else np.ravel(direction))
    return image


DIRECTIONS = {
    "axis-aligned": np.eye(3),
    "oblique": rotation(20, -35, 10),
    "left-handed": np.diag([1.0, 1.0, -1.0]),
    "oblique left-handed": rotation(20, -35, 10) @ np.diag([-1.0, 1.0, 1.0]),
    "sagittal": np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]),
}
