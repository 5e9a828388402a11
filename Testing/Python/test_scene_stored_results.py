"""What is kept with a segmentation, with real MRML (slicer-core)."""

from __future__ import annotations

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

import SimpleITK as sitk  # noqa: E402

from harness.mrml_segments import CLASSES, DIRECTIONS, TRANSFORMS, bent, labels_like, setup_nodes  # noqa: E402
from harness.mrml_volumes import put_under, ras, rotation  # noqa: E402
from harness.scene_files import load_scene, save_scene  # noqa: E402
from harness.scene_nodes import image_from_volume  # noqa: E402
from PromptSegLib.errors import PromptSegError  # noqa: E402
from PromptSegLib.imaging.geometry import Grid  # noqa: E402
from PromptSegLib.inference.result import Segmentation  # noqa: E402
from PromptSegLib.scene.segmentations import apply_result  # noqa: E402
from PromptSegLib.scene.stored_results import Place, packed, read_memory, write_memory  # noqa: E402


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
