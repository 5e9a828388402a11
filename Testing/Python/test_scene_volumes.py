"""Volume nodes to images, with real MRML (slicer-core)."""

from __future__ import annotations

import re

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

import SimpleITK as sitk  # noqa: E402
import vtk  # noqa: E402

from harness.mrml_volumes import DIRECTIONS, put_under, random_image, ras, rotation  # noqa: E402
from harness.scene_files import new_scene  # noqa: E402
from harness.scene_nodes import image_from_volume, volume_from_image  # noqa: E402
from PromptSegLib.errors import PromptSegError  # noqa: E402
from PromptSegLib.scene.placement import to_vtk  # noqa: E402
from PromptSegLib.scene.volumes import modality_of_volume  # noqa: E402


@pytest.fixture
def node():
    return volume_from_image(new_scene(), random_image(dtype=np.float32), "CT head")


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_round_trip(direction, dtype):
    image = random_image(direction, dtype=dtype)
    back = image_from_volume(volume_from_image(new_scene(), image, "CT"))
    assert back.GetPixelID() == image.GetPixelID()
    assert np.array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(image))
    assert np.allclose(back.GetSpacing(), image.GetSpacing())
    assert np.allclose(back.GetOrigin(), image.GetOrigin())
    assert np.allclose(back.GetDirection(), image.GetDirection())


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_chain_of_parent_transforms_and_voxel_positions(direction):
    scene = new_scene()
    image = random_image(direction)
    node = volume_from_image(scene, image, "CT")
    chain = put_under(scene, node, ras(rotation(0, 0, 30), (5, 6, 7)), ras(rotation(15) * 1.5, (-3, 0, 1)))
    moved = image_from_volume(node)
    assert np.allclose(moved.GetSpacing(), np.asarray(image.GetSpacing()) * 1.5)
    for index in [(0, 0, 0), (6, 5, 4), (3, 1, 2)]:
        local = np.array([*image.TransformIndexToPhysicalPoint(index), 1.0]) * [-1, -1, 1, 1]
        world = (chain @ local)[:3] * [-1, -1, 1]
        assert np.allclose(moved.TransformIndexToPhysicalPoint(index), world, atol=1e-9)


def test_data_whose_extent_does_not_start_at_zero():
    node = volume_from_image(new_scene(), random_image(rotation(10, 20, 30)), "CT")
    whole = image_from_volume(node)
    clip = vtk.vtkExtractVOI()
    clip.SetInputData(node.GetImageData())
    clip.SetVOI(2, 6, 1, 5, 1, 4)
    clip.Update()
    node.SetAndObserveImageData(clip.GetOutput())
    part = image_from_volume(node)
    assert np.array_equal(sitk.GetArrayFromImage(part), sitk.GetArrayFromImage(whole)[1:, 1:, 2:])
    assert np.allclose(part.GetOrigin(), whole.TransformIndexToPhysicalPoint((2, 1, 1)))


def refusal(node):
    with pytest.raises(PromptSegError) as caught:
        image_from_volume(node)
    message = str(caught.value)
    assert "'CT head'" in message
    assert re.fullmatch(r"[^.]*\.", message), "one sentence"
    return message


def test_rounding_in_a_header_is_not_shear(node):
    noisy = ras(rotation(20, 10, 5).round(4))
    node.SetIJKToRASMatrix(to_vtk(noisy))
    direction = np.reshape(image_from_volume(node).GetDirection(), (3, 3))
    assert np.allclose(direction.T @ direction, np.eye(3), atol=1e-12)


def test_shear_is_refused(node):
    put_under(node.GetScene(), node, ras(np.diag([1.0, 1.0, 1.3]) @ rotation(25)))
    assert "shear" in refusal(node)


def test_scaling_along_the_axes_is_not_shear(node):
    put_under(node.GetScene(), node, ras(np.diag([1.0, 2.0, 1.3])))
    assert np.allclose(image_from_volume(node).GetSpacing(), np.array([0.8, 1.1, 2.5]) * [1, 2, 1.3])


def test_nonlinear_transform_is_refused(node):
    spline = vtk.vtkThinPlateSplineTransform()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for point in [(0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9), (9, 9, 9)]:
        source.InsertNextPoint(point)
        target.InsertNextPoint(np.asarray(point) + np.random.default_rng(sum(point)).normal(size=3))
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    transform = node.GetScene().AddNewNodeByClass("vtkMRMLTransformNode")
    transform.SetAndObserveTransformToParent(spline)
    node.SetAndObserveTransformNodeID(transform.GetID())
    assert "non-linear transform; harden it first" in refusal(node)


def test_singular_transform_is_refused(node):
    put_under(node.GetScene(), node, ras(np.diag([1.0, 1.0, 0.0])))
    assert "inverted" in refusal(node)


def test_no_voxels_is_refused(node):
    node.SetAndObserveImageData(None)
    assert "no voxels" in refusal(node)


def test_vector_volume_is_refused():
    scene = new_scene()
    vector = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "CT head")
    data = vtk.vtkImageData()
    data.SetDimensions(4, 4, 4)
    data.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    vector.SetAndObserveImageData(data)
    assert "3 components" in refusal(vector)


def test_single_slice_is_refused(node):
    data = vtk.vtkImageData()
    data.SetDimensions(9, 9, 1)
    data.AllocateScalars(vtk.VTK_SHORT, 1)
    node.SetAndObserveImageData(data)
    assert "single slice" in refusal(node)


def test_zero_spacing_is_refused(node):
    matrix = np.eye(4)
    matrix[2, 2] = 0
    node.SetIJKToRASMatrix(to_vtk(matrix))
    # MRML keeps the zero in the spacing, and the direction with it.
    node.SetSpacing(1, 1, 0)
    assert "zero" in refusal(node)


@pytest.mark.parametrize(
    ("quantity", "units", "modality"),
    [
        (("112031", "DCM", "Attenuation Coefficient"), ("[hnsf'U]", "UCUM", "Hounsfield unit"), "CT"),
        (("112031", "DCM", "Attenuation Coefficient"), None, "CT"),
        (("110852", "DCM", "MR signal intensity"), ("1", "UCUM", "no units"), "MR"),
        (("126401", "DCM", "SUVbw"), ("{SUVbw}g/ml", "UCUM", "body weight"), ""),
        (None, None, ""),
    ],
)
def test_the_modality_that_a_volume_knows(quantity, units, modality):
    volume = volume_from_image(new_scene(), sitk.Image([4, 4, 4], sitk.sitkInt16), "volume")
    for given, setter in ((quantity, volume.SetVoxelValueQuantity), (units, volume.SetVoxelValueUnits)):
        if given:
            entry = slicer.vtkCodedEntry()
            entry.SetValueSchemeMeaning(*given)
            setter(entry)
    assert modality_of_volume(volume) == modality
