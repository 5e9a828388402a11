"""Volume nodes as images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from vtk.util.numpy_support import vtk_to_numpy

from ..errors import PromptSegError
from ..imaging.geometry import Grid
from .placement import RAS_LPS, label_of, orthogonal, volume_to_world


@dataclass(frozen=True, eq=False)
class Voxels:
    """A volume's own voxels (z, y, x), not a copy, and its grid in the world (LPS mm).

    :param state: differs when the voxels were modified in between; the array stays what it is.
    """

    array: np.ndarray
    grid: Grid
    state: tuple


def voxels_of_volume(volume_node) -> Voxels:
    """Look at a volume without copying or reading it.

    Linear parent transforms are part of the geometry: scaling goes to the spacing, and axes of either handedness are
    kept as they are. Raises :class:`PromptSegError` for a volume without image data, with several components, with a
    single slice, with zero spacing, with sheared axes, or under a non-linear transform.
    """
    array, matrix = _checked(volume_node)
    what = label_of(volume_node)
    spacing, direction, origin = orthogonal(RAS_LPS @ matrix, array.shape[::-1], what)
    x, y, z = array.shape[::-1]
    a, b, c = spacing.tolist()
    d, e, f = origin.tolist()
    grid = Grid((x, y, z), (a, b, c), (d, e, f), tuple(direction.ravel().tolist()))
    data = volume_node.GetImageData()
    return Voxels(
        array, grid, (volume_node.GetID(), data.GetMTime(), data.GetPointData().GetScalars().GetMTime(), grid)
    )


def modality_of_volume(volume_node) -> str:
    """``CT`` or ``MR`` where the volume's quantity or unit says so, as Slicer's DICOM reader sets them; else ""."""
    known = {"112031": "CT", "[hnsf'U]": "CT", "110852": "MR"}  # DCM and UCUM codes
    entries = (volume_node.GetVoxelValueUnits(), volume_node.GetVoxelValueQuantity())
    return next((known[each.GetCodeValue()] for each in entries if each and each.GetCodeValue() in known), "")


def _checked(volume_node) -> tuple[np.ndarray, np.ndarray]:
    """A view (k, j, i) of the voxels and the matrix (4, 4) from its indices to world RAS mm."""
    what = label_of(volume_node)
    data = volume_node.GetImageData()
    scalars = data.GetPointData().GetScalars() if data is not None else None
    if scalars is None or not data.GetNumberOfPoints():
        raise PromptSegError("{what} has no voxels; load or choose another volume.", what=what)
    if data.GetNumberOfScalarComponents() != 1:
        raise PromptSegError(
            "{what} has {getnumberofscalarcomponents} components per voxel; choose a scalar volume "
            "(Vector to Scalar Volume makes one).",
            what=what,
            getnumberofscalarcomponents=data.GetNumberOfScalarComponents(),
        )
    if min(data.GetDimensions()) < 2:
        raise PromptSegError("{what} is a single slice; choose a 3D volume.", what=what)
    voxels = vtk_to_numpy(scalars).reshape(data.GetDimensions()[::-1])
    matrix = volume_to_world(volume_node)
    matrix[:, 3] = matrix @ [*data.GetExtent()[::2], 1.0]
    return voxels, matrix
