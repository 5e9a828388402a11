"""What is kept with a segmentation, with real MRML (slicer-core)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

import SimpleITK as sitk  # noqa: E402

from harness.mrml_segments import CLASSES, DIRECTIONS, TRANSFORMS, bent, labels_like, setup_nodes  # noqa: E402
from harness.mrml_volumes import put_under, ras, rotation  # noqa: E402
from harness.scene_files import load_scene, save_scene  # noqa: E402
from harness.scene_nodes import image_from_volume, volume_from_image  # noqa: E402
from PromptSegLib.errors import PromptSegError  # noqa: E402
from PromptSegLib.imaging.geometry import Grid  # noqa: E402
from PromptSegLib.inference.result import Segmentation  # noqa: E402
from PromptSegLib.scene.labelmaps import matrix_of  # noqa: E402
from PromptSegLib.scene.placement import RAS_LPS, to_vtk  # noqa: E402
from PromptSegLib.scene.segment_snapshot import snapshot  # noqa: E402
from PromptSegLib.scene.segmentations import apply_result  # noqa: E402
from PromptSegLib.scene.stored_results import Kept, Place, followed, packed, read_memory, write_memory  # noqa: E402


def two_images(volume):
    """A result on the volume's voxels, and strokes with large values on a lattice of their own."""
    applied = labels_like(image_from_volume(volume))
    array = np.zeros((1, 4, 5), np.uint16)
    array[0, 1:3, 2:4], array[0, 3, 0] = 700, 3
    strokes = sitk.GetImageFromArray(array)
    strokes.SetDirection(rotation(31, 7, -12).ravel().tolist())
    strokes.SetOrigin((1.5, -2.25, 40.0))
    strokes.SetSpacing((0.37, 1.3, 2.1))
    return {"applied": applied, "strokes": strokes}


def check(found, images):
    """Whether what was found are these images."""
    found = found.images
    assert sorted(found) == sorted(images)
    for key, image in images.items():
        assert found[key].GetPixelID() == image.GetPixelID()
        assert np.array_equal(sitk.GetArrayFromImage(found[key]), sitk.GetArrayFromImage(image))
        assert Grid.of(found[key]).same_as(Grid.of(image), 1e-4)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("transforms", TRANSFORMS.values(), ids=TRANSFORMS)
def test_images_come_back_also_from_a_saved_scene(tmp_path, transforms, direction):
    scene, volume, node = setup_nodes(transforms, direction)
    assert not read_memory(node).images
    images = two_images(volume)
    before = scene.GetNumberOfNodes()
    write_memory(node, images, {"strokes": packed(images["strokes"])})
    assert scene.GetNumberOfNodes() == before
    check(read_memory(node), images)
    save_scene(scene, tmp_path / "a.mrb")
    opened = load_scene(tmp_path / "a.mrb")
    again = opened.GetFirstNodeByName("Segmentation")
    check(read_memory(again), images)
    check(read_memory(node), images)
    assert not read_memory(again).place.moved_to(Place.of(again))


def test_where_the_segmentation_lay_is_kept():
    scene, volume, node = setup_nodes(TRANSFORMS["both"])
    images = two_images(volume)
    apply_result(node, volume, Segmentation(images["applied"], CLASSES))
    ids = node.GetSegmentation().GetSegmentIDs()
    write_memory(node, images, place=Place.of(node, ids))
    kept = read_memory(node).place
    assert not kept.moved_to(Place.of(node, ids))
    node.HardenTransform()  # the segments stay where they are
    assert not kept.moved_to(Place.of(node, ids)) and kept.moved_to(Place.of(node))
    put_under(scene, node, ras(rotation(-30, 5, 8), (140, 0, -7)))
    assert kept.moved_to(Place.of(node, ids))


def applied_and_kept(transforms=((), ())):
    """A segmentation to which a result was applied: scene, volume, node, IDs, the images and where it lay."""
    scene, volume, node = setup_nodes(transforms)
    images = two_images(volume)
    ids = apply_result(node, volume, Segmentation(images["applied"], CLASSES))
    values = {ids[info.name]: info.value for info in CLASSES}
    return scene, volume, node, values, images, Place.of(node, values)


def erase_half(node, segment_id):
    """Of the layer of a segment."""
    labelmap = node.GetSegmentation().GetSegment(segment_id).GetRepresentation("Binary labelmap")
    left, right, *rest = labelmap.GetExtent()
    slicer.vtkOrientedImageDataResample.FillImage(labelmap, 0, [left, (left + right) // 2 - 1, *rest])


@pytest.mark.parametrize("motion", [ras(rotation(-10, 5, 80), (30, -20, 11)), ras(np.eye(3) * 1.4, (2, 0, 0))])
@pytest.mark.parametrize("corrected", [False, True])
def test_images_follow_a_move_that_was_hardened(motion, corrected):
    scene, volume, node, values, images, before = applied_and_kept(TRANSFORMS["both"])
    node.HardenTransform()
    before = Place.of(node, values)
    put_under(scene, node, motion)
    node.HardenTransform()
    if corrected:
        erase_half(node, next(iter(values)))
    found = followed(node, images, before, Place.of(node, values), values)
    for key, index in itertools.product(images, [(0, 0, 0), (4, 3, 0)]):
        there = RAS_LPS @ motion @ RAS_LPS @ [*images[key].TransformIndexToPhysicalPoint(index), 1]
        assert np.allclose(found[key].TransformIndexToPhysicalPoint(index), there[:3], atol=1e-6)


@pytest.mark.parametrize("motion", [None, ras(rotation(-10, 5, 80), (30, -20, 11))], ids=["", "moved"])
def test_images_follow_into_a_saved_scene(tmp_path, motion):
    """There, what came as a part of the volume counts its voxels from the first one of the volume."""
    scene, volume, node = setup_nodes()
    part = labels_like(image_from_volume(volume))[2:14, 1:12, 1:9]
    ids = apply_result(node, volume, Segmentation(part, CLASSES))
    values = {ids[info.name]: info.value for info in CLASSES}
    write_memory(node, {"applied": part}, place=Place.of(node, values))
    if motion is not None:
        put_under(scene, node, motion)
        node.HardenTransform()
    save_scene(scene, tmp_path / "a.mrb")
    again = load_scene(tmp_path / "a.mrb").GetFirstNodeByName("Segmentation")
    kept, now = read_memory(again), Place.of(again, values)
    assert kept.place.moved_to(now) == (motion is not None)
    found = followed(again, kept.images, kept.place, now, values)["applied"]
    masks = snapshot(again, None, values).masks(values, Grid.of(found))
    for each, value in values.items():
        assert np.array_equal(masks[each], sitk.GetArrayViewFromImage(part) == value)


def test_images_stay_where_the_voxels_of_segments_are_counted_from_elsewhere():
    """As after a file that holds the segments without what is around them, and says nothing of a volume."""
    _, _, node, values, images, before = applied_and_kept()
    labelmap = node.GetSegmentation().GetSegment(next(iter(values))).GetRepresentation("Binary labelmap")
    matrix, shift = matrix_of(labelmap), np.array([3, -2, 1])
    labelmap.SetExtent((np.reshape(labelmap.GetExtent(), (3, 2)) + shift[:, None]).ravel().tolist())
    labelmap.SetImageToWorldMatrix(to_vtk(matrix @ ras(offset=-shift)))
    converter = slicer.vtkSegmentationConverter
    node.GetSegmentation().SetConversionParameter(converter.GetReferenceImageGeometryParameterName(), "")
    now = Place.of(node, values)
    assert before.moved_to(now)  # or so it seems
    check(Kept(followed(node, images, before, now, values)), images)


@pytest.mark.parametrize("spacing", [(0.8, 1.1, 2.5), (0.4, 0.55, 1.25)], ids=["same voxels", "half as large"])
def test_images_stay_when_segments_are_resampled_onto_the_geometry_of_another_volume(spacing):
    scene, _, node, values, images, before = applied_and_kept()
    image = sitk.Image([80, 80, 80], sitk.sitkInt16)
    image.SetSpacing(spacing)
    image.SetDirection(rotation(20, -35, 10).ravel().tolist())
    middle = images["applied"].TransformContinuousIndexToPhysicalPoint([6.0, 5.0, 4.0])
    corner = image.TransformContinuousIndexToPhysicalPoint([40.0, 40.0, 40.0])
    image.SetOrigin((np.asarray(middle) - corner).tolist())
    geometry = slicer.vtkSlicerSegmentationGeometryLogic()
    geometry.SetInputSegmentationNode(node)
    geometry.SetSourceGeometryNode(volume_from_image(scene, image, "another"))
    geometry.CalculateOutputGeometry()
    geometry.SetReferenceImageGeometryInSegmentationNode()
    geometry.ResampleLabelmapsInSegmentationNode()
    now = Place.of(node, values)
    assert not np.allclose(now.lattice, before.lattice, atol=0.1)
    check(Kept(followed(node, images, before, now, values)), images)


def test_a_lattice_that_is_none_is_damage():
    _, _, node, values, images, before = applied_and_kept()
    write_memory(node, images, place=Place(before.to_world, np.zeros((4, 4))))
    assert not read_memory(node).images


def test_writing_again_replaces_everything():
    scene, volume, node = setup_nodes()
    images = two_images(volume)
    write_memory(node, images)
    other = sitk.Image([3, 4, 5], sitk.sitkUInt8) + 9
    put_under(scene, node, ras(rotation(3), (5, 5, 5)))
    write_memory(node, {"strokes": other})
    check(read_memory(node), {"strokes": other})
    write_memory(node, images)
    check(read_memory(node), images)
    write_memory(node, {})
    assert not read_memory(node).images and not [each for each in node.GetAttributeNames() if "Memory" in each]


def test_a_clone_has_a_memory_of_its_own():
    scene, volume, node = setup_nodes()
    images = two_images(volume)
    write_memory(node, images)
    clone = slicer.vtkMRMLSegmentationNode()
    clone.Copy(node)
    clone = scene.AddNode(clone)
    check(read_memory(clone), images)
    write_memory(clone, {"applied": sitk.Image([3, 4, 5], sitk.sitkUInt8) + 9})
    check(read_memory(node), images)
    assert list(read_memory(clone).images) == ["applied"]


def test_two_scenes_in_one_keep_their_memories_apart(tmp_path):
    scene, volume, node = setup_nodes()
    images = two_images(volume)
    write_memory(node, images)
    save_scene(scene, tmp_path / "a.mrb")
    opened = load_scene(tmp_path / "a.mrb")
    first = opened.GetFirstNodeByName("Segmentation")
    write_memory(node, {"applied": images["applied"] * 2})
    # The same IDs come again: the second scene's are changed on import.
    opened.SetURL(str(scene.GetURL()))
    scene.SetSaveToXMLString(1)
    scene.Commit()
    opened.SetLoadFromXMLString(1)
    opened.SetSceneXMLString(scene.GetSceneXMLString())
    opened.Import()
    nodes = [opened.GetNthNodeByClass(n, "vtkMRMLSegmentationNode") for n in range(2)]
    assert first in nodes and nodes[0].GetID() != nodes[1].GetID()
    check(read_memory(first), images)
    check(read_memory(next(each for each in nodes if each is not first)), {"applied": images["applied"] * 2})


def test_transforms_that_no_image_can_follow_leave_the_memory_alone():
    scene, volume, node = setup_nodes()
    images = two_images(volume)
    write_memory(node, images)
    other = {"applied": sitk.Image([3, 4, 5], sitk.sitkUInt8)}
    put_under(scene, node, ras(rotation(20) @ np.diag([1, 1, 1.4]) @ rotation(30)))
    with pytest.raises(PromptSegError, match="shear"):
        write_memory(node, other)
    node.SetAndObserveTransformNodeID(bent(scene))
    with pytest.raises(PromptSegError, match="non-linear"):
        write_memory(node, other)
    node.SetAndObserveTransformNodeID(None)
    check(read_memory(node), images)
