"""What is kept with a segmentation, with real MRML (slicer-core)."""

from __future__ import annotations

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

import SimpleITK as sitk  # noqa: E402
from test_scene_segmentations import DIRECTIONS, TRANSFORMS, bent, labels_like, setup_nodes  # noqa: E402
from test_scene_volumes import put_under, ras, rotation  # noqa: E402

from PromptSegLib.errors import PromptSegError  # noqa: E402
from PromptSegLib.examples.geometry import Grid  # noqa: E402
from PromptSegLib.scene import links  # noqa: E402
from PromptSegLib.scene.memory import (  # noqa: E402
    MEMORY_ROLE,
    forget_orphans,
    read_memory,
    write_memory,
)
from PromptSegLib.scene.placement import to_vtk  # noqa: E402
from PromptSegLib.scene.storage import load_scene, save_scene  # noqa: E402
from PromptSegLib.scene.volumes import image_from_volume  # noqa: E402


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


def check(found, images, turned=()):
    """Whether images are the same; ``turned`` names those whose last index axis may run the other way."""
    assert list(found) == list(images)
    for key, image in images.items():
        if key in turned:
            found[key] = found[key][:, :, ::-1]
        assert found[key].GetPixelID() == image.GetPixelID()
        assert np.array_equal(sitk.GetArrayFromImage(found[key]), sitk.GetArrayFromImage(image))
        assert Grid.of(found[key]).same_as(Grid.of(image), 1e-4)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("transforms", TRANSFORMS.values(), ids=TRANSFORMS)
def test_images_come_back_also_from_a_saved_scene(tmp_path, transforms, direction):
    scene, volume, node = setup_nodes(transforms, direction)
    assert read_memory(node) == {}
    images = two_images(volume)
    write_memory(node, images)
    check(read_memory(node), images)
    save_scene(scene, tmp_path / "a.mrb")
    opened = load_scene(tmp_path / "a.mrb")
    again = opened.GetFirstNodeByName("Segmentation")
    # Slicer reads a left-handed volume with its last axis turned round, in the same place; the CT as well.
    left_handed = np.linalg.det(np.reshape(images["applied"].GetDirection(), (3, 3))) < 0
    assert left_handed == (np.linalg.det(np.reshape(image_from_volume(volume).GetDirection(), (3, 3))) < 0)
    check(read_memory(again), images, ["applied"] if left_handed else [])
    check(read_memory(node), images)


def memory_nodes(scene):
    count = scene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode")
    return [scene.GetNthNodeByClass(n, "vtkMRMLLabelMapVolumeNode") for n in range(count)]


def test_nodes_are_hidden_and_follow_the_segmentation():
    scene, volume, node = setup_nodes(TRANSFORMS["both"])
    images = two_images(volume)
    write_memory(node, images)
    for each in memory_nodes(scene):
        assert each.GetHideFromEditors() and each.GetSaveWithScene() and each.GetDisplayNode() is None
        assert each.GetName().startswith("Segmentation ") and each.GetName().endswith("(PromptSeg memory)")
        assert each.GetTransformNodeID() == node.GetTransformNodeID()
    # The transform moves, and what is kept moves with the segments.
    node.GetParentTransformNode().SetMatrixTransformToParent(to_vtk(ras(rotation(-30, 5, 8), (140, 0, -7))))
    moved = read_memory(node)["applied"]
    outer = ras(rotation(-30, 5, 8), (40, 0, -7)), ras(rotation(-30, 5, 8), (140, 0, -7))
    point = np.asarray(images["applied"].GetOrigin()) * [-1, -1, 1]
    expected = (outer[1] @ np.linalg.inv(outer[0]) @ [*point, 1])[:3] * [-1, -1, 1]
    assert np.allclose(moved.GetOrigin(), expected, atol=1e-6)


def test_writing_again_replaces_everything():
    scene, volume, node = setup_nodes()
    images = two_images(volume)
    before = scene.GetNumberOfNodes()
    write_memory(node, images)
    assert scene.GetNumberOfNodes() == before + 2
    other = sitk.Image([3, 4, 5], sitk.sitkUInt8) + 9
    put_under(scene, node, ras(rotation(3), (5, 5, 5)))
    node.SetName("renamed")
    write_memory(node, {"strokes": other})
    check(read_memory(node), {"strokes": other})
    (only,) = memory_nodes(scene)
    assert only.GetName() == "renamed strokes (PromptSeg memory)"
    assert only.GetTransformNodeID() == node.GetTransformNodeID()
    assert node.GetNumberOfNodeReferences(MEMORY_ROLE) == 1
    write_memory(node, images)
    check(read_memory(node), images)
    write_memory(node, {})
    assert read_memory(node) == {} and scene.GetNumberOfNodes() == before + 1


def test_forgetting():
    scene, volume, node = setup_nodes()
    before = scene.GetNumberOfNodes()
    write_memory(node, {})
    write_memory(node, two_images(volume))
    for each in memory_nodes(scene):
        each.AddDefaultStorageNode()
    write_memory(node, {})
    assert read_memory(node) == {} and scene.GetNumberOfNodes() == before
    assert node.GetNumberOfNodeReferences(MEMORY_ROLE) == 0


def test_deleted_nodes():
    scene, volume, node = setup_nodes()
    images = two_images(volume)
    write_memory(node, images)
    scene.RemoveNode(memory_nodes(scene)[0])
    check(read_memory(node), {"strokes": images["strokes"]})
    scene.RemoveNode(volume)
    forget_orphans(scene)
    check(read_memory(node), {"strokes": images["strokes"]})
    labelmap = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "the user's own")
    scene.RemoveNode(node)
    forget_orphans(scene)
    assert memory_nodes(scene) == [labelmap]


def test_a_clone_has_no_memory_and_never_writes_into_its_originals():
    scene, volume, node = setup_nodes()
    images = two_images(volume)
    write_memory(node, images)
    clone = slicer.vtkMRMLSegmentationNode()
    clone.Copy(node)
    clone = scene.AddNode(clone)
    assert clone.GetNumberOfNodeReferences(MEMORY_ROLE) == 2
    assert read_memory(clone) == {}
    check(read_memory(node), images)
    write_memory(clone, {"applied": sitk.Image([3, 4, 5], sitk.sitkUInt8) + 9})
    check(read_memory(node), images)
    assert list(read_memory(clone)) == ["applied"]


def test_two_scenes_in_one_keep_their_memories_apart(tmp_path):
    scene, volume, node = setup_nodes()
    images = two_images(volume)
    write_memory(node, images)
    save_scene(scene, tmp_path / "a.mrb")
    opened = load_scene(tmp_path / "a.mrb")
    first = opened.GetFirstNodeByName("Segmentation")
    # The same IDs come again: the second scene's are changed on import, and its references with them.
    opened.SetURL(str(scene.GetURL()))
    scene.SetSaveToXMLString(1)
    scene.Commit()
    opened.SetLoadFromXMLString(1)
    opened.SetSceneXMLString(scene.GetSceneXMLString())
    opened.Import()
    nodes = [opened.GetNthNodeByClass(n, "vtkMRMLSegmentationNode") for n in range(2)]
    assert first in nodes and nodes[0].GetID() != nodes[1].GetID()
    owners = [each.GetNodeReference("PromptSegMemoryOf") for each in memory_nodes(opened)]
    assert sorted(owner.GetID() for owner in owners) == sorted(each.GetID() for each in nodes for _ in range(2))
    check(read_memory(first), images)


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
    assert links.alive(scene, memory_nodes(scene)[0])
