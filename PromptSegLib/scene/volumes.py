"""Volume nodes to images and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from ..errors import PromptSegError
from ..imaging.geometry import Grid
from .placement import RAS_LPS, image_of, image_to_world, label_of, orthogonal, to_vtk, volume_to_world


@dataclass(frozen=True, eq=False)
class Voxels:
    """A volume's own voxels (z, y, x), not a copy, and its grid in the world (LPS mm).

    :param state: differs when the voxels were modified in between; the array stays what it is.
    """

    array: np.ndarray
    grid: Grid
    state: tuple


def voxels_of_volume(volume_node) -> Voxels:
    """Look at a volume without copying or reading it. Raises as :func:`image_from_volume`, but for NaN."""
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


def image_from_volume(volume_node) -> sitk.Image:
    """Voxels and world geometry of a ``vtkMRMLScalarVolumeNode``.

    The pixel type is the volume's. Linear parent transforms are part of the geometry (LPS mm):
    scaling goes to the spacing, and axes of either handedness are kept as they are. The voxels
    are copied once.

    Raises :class:`PromptSegError` for a volume without image data, with several components, with
    a single slice, with NaN or infinite values, with zero spacing, with sheared axes, or under a
    non-linear transform.
    """
    voxels, matrix = _checked(volume_node)
    what = label_of(volume_node)
    # Slice by slice: a whole mask of a large volume would cost as much memory as an 8-bit copy of it.
    if voxels.dtype.kind == "f" and not all(np.isfinite(plane).all() for plane in voxels):
        raise PromptSegError("{what} contains NaN or infinite values; replace them before segmenting.", what=what)
    return image_of(voxels, matrix, what)


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


def volume_from_image(scene, image: sitk.Image, name: str):
    """A new ``vtkMRMLScalarVolumeNode`` called ``name`` in ``scene``, with a copy of a 3D scalar image (LPS mm).

    Raises :class:`PromptSegError` when the image is not 3D or not scalar.
    """
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise PromptSegError("Image '{name}' is not a 3D scalar image; choose another.", name=name)
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
