"""Volume nodes to images and back."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from ..errors import PromptSegError
from .placement import image_of, image_to_world, label_of, to_vtk, volume_to_world


def image_from_volume(volume_node) -> sitk.Image:
    """Voxels and world geometry of a ``vtkMRMLScalarVolumeNode``.

    The pixel type is the volume's. Linear parent transforms are part of the geometry (LPS mm):
    scaling goes to the spacing, and axes of either handedness are kept as they are. The voxels
    are copied once.

    Raises :class:`PromptSegError` for a volume without image data, with several components, with
    a single slice, with NaN or infinite values, with zero spacing, with sheared axes, or under a
    non-linear transform.
    """
    what = label_of(volume_node)
    data = volume_node.GetImageData()
    scalars = data.GetPointData().GetScalars() if data is not None else None
    if scalars is None or not data.GetNumberOfPoints():
        raise PromptSegError(f"{what} has no voxels; load or choose another volume.")
    if data.GetNumberOfScalarComponents() != 1:
        raise PromptSegError(
            f"{what} has {data.GetNumberOfScalarComponents()} components per voxel; "
            "choose a scalar volume (Vector to Scalar Volume makes one)."
        )
    if min(data.GetDimensions()) < 2:
        raise PromptSegError(f"{what} is a single slice; choose a 3D volume.")
    voxels = vtk_to_numpy(scalars).reshape(data.GetDimensions()[::-1])
    # Slice by slice: a whole mask of a large volume would cost as much memory as an 8-bit copy of it.
    if voxels.dtype.kind == "f" and not all(np.isfinite(plane).all() for plane in voxels):
        raise PromptSegError(f"{what} contains NaN or infinite values; replace them before segmenting.")
    matrix = volume_to_world(volume_node)
    matrix[:, 3] = matrix @ [*data.GetExtent()[::2], 1.0]
    return image_of(voxels, matrix, what)


def volume_from_image(scene, image: sitk.Image, name: str):
    """A new ``vtkMRMLScalarVolumeNode`` called ``name`` in ``scene``, with a copy of a 3D scalar image (LPS mm).

    Raises :class:`PromptSegError` when the image is not 3D or not scalar.
    """
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise PromptSegError(f"Image '{name}' is not a 3D scalar image; choose another.")
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
