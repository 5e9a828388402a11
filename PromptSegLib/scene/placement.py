"""Where a node's voxels lie in the world: MRML matrices (RAS) to SimpleITK geometry (LPS) and back.

Matrices are (4, 4) numpy arrays that map voxel indices (i, j, k, 1) or points to RAS millimeters.
"""

from __future__ import annotations

import re
from typing import Sequence

import numpy as np
import SimpleITK as sitk
import vtk

from ..errors import PromptSegError
from ..imaging.geometry import PERPENDICULAR, skew

RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def in_xml(text: str) -> str:
    """A text without the characters that XML 1.0 has no room for: Slicer writes names and attributes as they are, and
    can then never open the scene again."""
    return _NOT_XML.sub(" ", text)


def label_of(node) -> str:
    """What to call a node in a message: ``Volume 'CT'``."""
    kind = "Segmentation" if node.IsA("vtkMRMLSegmentationNode") else "Volume"
    return f"{kind} '{node.GetName()}'"


def to_array(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    """A VTK matrix as (4, 4) numpy."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def to_vtk(array: np.ndarray) -> vtk.vtkMatrix4x4:
    """A (4, 4) numpy matrix as VTK's."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, float).ravel().tolist())
    return matrix


def node_to_world(node) -> np.ndarray:
    """(4, 4) RAS: the whole chain of parent transforms of a node.

    Raises :class:`PromptSegError` when the chain is non-linear or cannot be inverted.
    """
    transform = node.GetParentTransformNode()
    if transform is None:
        return np.eye(4)
    if not transform.IsTransformToWorldLinear():
        raise PromptSegError(
            "{label_of} is under a non-linear transform; harden it first (Data module, Harden transform).",
            label_of=label_of(node),
        )
    matrix = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(matrix)
    array = to_array(matrix)
    if not np.isfinite(array).all() or abs(np.linalg.det(array[:3, :3])) < 1e-12:
        raise PromptSegError(
            "{label_of} is under a transform that cannot be inverted; remove that transform.", label_of=label_of(node)
        )
    return array


def volume_to_world(volume_node) -> np.ndarray:
    """(4, 4): voxel indices (i, j, k) of a volume node to world RAS mm. Raises as :func:`node_to_world`."""
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    return node_to_world(volume_node) @ to_array(matrix)


def orthogonal(matrix: np.ndarray, size: Sequence[int], what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spacing (3,) mm, directions (3, 3, one column per index axis) and origin (3,) mm of an index-to-point matrix.

    Directions are exactly orthonormal, of either handedness; what rounding has to give is shared
    around the center of a grid of ``size`` (i, j, k) voxels. Raises :class:`PromptSegError`, naming
    ``what``, when the axes are sheared or a spacing is zero.
    """
    axes = matrix[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    if not np.isfinite(matrix).all() or spacing.min() < 1e-9:
        raise PromptSegError(
            "{what} has a zero or undefined voxel spacing; set its spacing in the Volumes module.", what=what
        )
    cosines = axes / spacing
    if not skew(cosines) < PERPENDICULAR:
        raise PromptSegError(
            "{what} has sheared (not perpendicular) voxel axes in the world; harden its transform and "
            "resample the volume first.",
            what=what,
        )
    left, _, right = np.linalg.svd(cosines)
    direction = left @ right
    center = (np.asarray(size, float) - 1) / 2
    origin = matrix[:3, 3] + axes @ center - (direction * spacing) @ center
    return spacing, direction, origin


def image_of(voxels: np.ndarray, index_to_world: np.ndarray, what: str) -> sitk.Image:
    """Voxels (k, j, i) and their (4, 4) index-to-world-RAS matrix as an image (LPS). Raises as :func:`orthogonal`."""
    spacing, direction, origin = orthogonal(RAS_LPS @ index_to_world, voxels.shape[::-1], what)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction.ravel().tolist())
    return image


def image_to_world(image: sitk.Image) -> np.ndarray:
    """(4, 4): voxel indices of an image to world RAS mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return RAS_LPS @ matrix
