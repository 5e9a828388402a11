"""The preview of a result, with real MRML (slicer-core)."""

from __future__ import annotations

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

import SimpleITK as sitk  # noqa: E402

from harness.mrml_segments import (  # noqa: E402
    CLASSES,
    DIRECTIONS,
    SURFACE,
    TRANSFORMS,
    bent,
    ijk_to_ras,
    labels_like,
    setup_nodes,
    voxels_of,
    world_of,
)
from harness.scene_files import load_scene, new_scene, save_scene  # noqa: E402
from harness.scene_nodes import (  # noqa: E402
    image_from_volume,
    segments_by_name,
    volume_from_image,
)
from PromptSegLib.annotation.classes import ClassInfo  # noqa: E402
from PromptSegLib.errors import PromptSegError  # noqa: E402
from PromptSegLib.inference.result import Segmentation  # noqa: E402
from PromptSegLib.scene.preview import Preview  # noqa: E402
from PromptSegLib.scene.segmentations import segments  # noqa: E402


def a_result(volume, classes=CLASSES):
    return Segmentation(labels_like(image_from_volume(volume)), classes)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("transforms", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_preview_lies_on_the_anatomy(transforms, direction):
    _, volume, node = setup_nodes(transforms, direction)
    result = a_result(volume)
    preview = Preview()
    preview.show(node, volume, result)
    shown = preview.node
    assert shown is not node and node.GetSegmentation().GetNumberOfSegments() == 0
    assert shown.GetTransformNodeID() == node.GetTransformNodeID()
    array, names = sitk.GetArrayFromImage(result.labels), segments_by_name(shown)
    for info in CLASSES:
        expected = world_of(array == info.value, ijk_to_ras(volume), transforms[0])
        voxels, extent, matrix = voxels_of(shown, names[info.name])
        assert np.allclose(world_of(voxels, matrix, transforms[1], extent[::2]), expected, atol=1e-6)


def test_a_preview_is_seen_but_neither_listed_nor_saved(tmp_path):
    scene, volume, node = setup_nodes()
    save_scene(scene, tmp_path / "a.mrb")  # gives nodes their storage nodes
    before = scene.GetNumberOfNodes()
    heard = []
    scene.AddObserver(scene.NodeAddedEvent, lambda *_: heard.append(visible_in_lists(scene)))
    preview = Preview(opacity=0.3)
    preview.show(node, volume, a_result(volume))
    assert set(heard) == {("Segmentation",)}  # at no moment listed
    shown, display = preview.node, preview.node.GetDisplayNode()
    assert shown.GetHideFromEditors() and not shown.GetSaveWithScene() and not display.GetSaveWithScene()
    assert display.GetVisibility() and display.GetVisibility2DFill() and not display.GetVisibility3D()
    assert display.GetOpacity() == 0.3 and display.GetOpacity2DFill() == 1
    save_scene(scene, tmp_path / "a.mrb")
    assert load_scene(tmp_path / "a.mrb").GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
    preview.remove()
    preview.remove()
    assert preview.node is None and scene.GetNumberOfNodes() == before


def visible_in_lists(scene):
    count = scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    nodes = [scene.GetNthNodeByClass(n, "vtkMRMLSegmentationNode") for n in range(count)]
    return tuple(node.GetName() for node in nodes if not node.GetHideFromEditors())


def test_showing_again_changes_the_same_node():
    scene, volume, node = setup_nodes()
    preview = Preview()
    preview.show(node, volume, a_result(volume))
    shown, ids, count = preview.node, segments_by_name(preview.node), scene.GetNumberOfNodes()
    labels = sitk.GetImageFromArray(np.roll(sitk.GetArrayFromImage(a_result(volume).labels), 1, axis=2))
    labels.CopyInformation(image_from_volume(volume))
    blue = ClassInfo("liver", 2, (0.0, 0.0, 1.0))  # the class has another value and another color now
    new = ClassInfo("new", 5, (0.0, 1.0, 0.0))
    preview.show(node, volume, Segmentation(labels, (blue, new)))
    assert preview.node is shown and scene.GetNumberOfNodes() == count
    listed = segments(shown)
    # Lighter than the class, so that the segment below can be told from it.
    assert {one.name: one.color for one in listed} == {"liver": (0.5, 0.5, 1.0), "new": (0.5, 1.0, 0.5)}
    assert segments_by_name(shown)["liver"] == ids["liver"]
    layers = {
        shown.GetSegmentation().GetSegment(one.id).GetRepresentation("Binary labelmap").GetAddressAsString("")
        for one in listed
    }
    assert len(layers) == 1
    assert voxels_of(shown, ids["liver"])[0].sum() == (sitk.GetArrayFromImage(labels) == 2).sum()
    nothing = sitk.Image(labels.GetSize(), sitk.sitkUInt8)
    preview.show(node, volume, Segmentation(nothing, (blue,)))
    assert [one.is_empty for one in segments(shown)] == [True]


def test_opacity():
    _, volume, node = setup_nodes()
    preview = Preview()
    preview.opacity = 0.25
    preview.show(node, volume, a_result(volume))
    assert preview.node.GetDisplayNode().GetOpacity() == 0.25
    for given, kept in ((0.75, 0.75), (7, 1.0), (-1, 0.0)):
        preview.opacity = given
        assert preview.opacity == preview.node.GetDisplayNode().GetOpacity() == kept
    preview.show(node, volume, a_result(volume))
    assert preview.node.GetDisplayNode().GetOpacity() == 0.0


def test_surfaces_on_demand():
    _, volume, node = setup_nodes()
    preview = Preview()
    preview.show(node, volume, a_result(volume))
    segmentation = preview.node.GetSegmentation()
    assert not segmentation.ContainsRepresentation(SURFACE)
    preview.visible_3d = True
    assert preview.visible_3d and preview.node.GetDisplayNode().GetVisibility3D()
    (liver, *_) = (one.id for one in segments(preview.node))
    was = segmentation.GetSegment(liver).GetRepresentation(SURFACE).GetBounds()
    labels = sitk.GetImageFromArray(np.roll(sitk.GetArrayFromImage(a_result(volume).labels), 3, axis=2))
    labels.CopyInformation(image_from_volume(volume))
    preview.show(node, volume, Segmentation(labels, CLASSES))
    now = segmentation.GetSegment(liver).GetRepresentation(SURFACE).GetBounds()
    assert now[0] == pytest.approx(was[0] - 3 * 0.8, abs=1e-3)
    preview.visible_3d = False
    assert not segmentation.ContainsRepresentation(SURFACE) and not preview.node.GetDisplayNode().GetVisibility3D()
    preview.remove()
    preview.visible_3d = True
    preview.show(node, volume, a_result(volume))
    assert preview.node.GetSegmentation().ContainsRepresentation(SURFACE)


def test_deleted_nodes_are_made_again():
    scene, volume, node = setup_nodes()
    preview = Preview(opacity=0.4)
    preview.show(node, volume, a_result(volume))
    scene.RemoveNode(preview.node.GetDisplayNode())
    preview.opacity = 0.6
    preview.visible_3d = False
    preview.show(node, volume, a_result(volume))
    assert preview.node.GetDisplayNode().GetOpacity() == 0.6
    assert not preview.node.GetDisplayNode().GetSaveWithScene()
    old = preview.node
    scene.RemoveNode(old)
    assert preview.node is None
    preview.opacity = 0.5
    preview.visible_3d = True
    preview.show(node, volume, a_result(volume))
    assert preview.node is not None and preview.node is not old and len(segments(preview.node)) == 3
    scene.Clear(False)
    assert preview.node is None
    preview.remove()

    other = new_scene()
    volume = volume_from_image(other, sitk.Image([14, 12, 10], sitk.sitkInt16), "CT")
    node = other.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
    preview.show(node, volume, a_result(volume))
    assert preview.node.GetScene() is other


def test_what_cannot_be_shown_leaves_what_was_shown():
    scene, volume, node = setup_nodes()
    preview, result = Preview(), a_result(volume)
    curved = bent(scene)
    before = scene.GetNumberOfNodes()
    node.SetAndObserveTransformNodeID(curved)
    with pytest.raises(PromptSegError, match="non-linear"):
        preview.show(node, volume, result)
    assert preview.node is None and scene.GetNumberOfNodes() == before
    node.SetAndObserveTransformNodeID(None)
    preview.show(node, volume, result)
    was = {one.id: voxels_of(preview.node, one.id)[0].sum() for one in segments(preview.node)}
    node.SetAndObserveTransformNodeID(curved)
    with pytest.raises(PromptSegError, match="non-linear"):
        preview.show(node, volume, result)
    assert preview.node.GetTransformNodeID() is None
    assert {one.id: voxels_of(preview.node, one.id)[0].sum() for one in segments(preview.node)} == was
