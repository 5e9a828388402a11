"""What belongs together in a scene, with real MRML (slicer-core)."""

from __future__ import annotations

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

from harness.mrml_segments import (  # noqa: E402
    CLASSES,
    DIRECTIONS,
    TRANSFORMS,
    add_segment,
    bent,
    ijk_to_ras,
    labels_like,
    setup_nodes,
    user_segmentation,
)
from harness.mrml_volumes import put_under, ras, rotation  # noqa: E402
from harness.scene_files import load_scene, new_scene, save_scene  # noqa: E402
from harness.scene_nodes import image_from_volume  # noqa: E402
from PromptSegLib.errors import PromptSegError  # noqa: E402
from PromptSegLib.inference.result import Segmentation  # noqa: E402
from PromptSegLib.scene import node_references, scene_nodes, segment_tags  # noqa: E402
from PromptSegLib.scene.labelmaps import matrix_of  # noqa: E402
from PromptSegLib.scene.placement import node_to_world, volume_to_world  # noqa: E402
from PromptSegLib.scene.segmentations import apply_result  # noqa: E402


def test_tags_of_segments(tmp_path):
    volume, node, first, second, _ = user_segmentation(aligned=True)
    assert segment_tags.tag(node, first, "Stand") == ""
    segment_tags.set_tag(node, first, "Stand", "grün | 1:2;3")
    assert segment_tags.tag(node, first, "Stand") == "grün | 1:2;3" and segment_tags.tag(node, second, "Stand") == ""
    assert node.GetSegmentation().GetSegment(first).HasTag("PromptSeg.Stand")
    segment_tags.set_tag(node, second, "Stand", "plain")
    save_scene(node.GetScene(), tmp_path / "a.mrb")
    again = load_scene(tmp_path / "a.mrb").GetFirstNodeByName("Segmentation")
    assert segment_tags.tag(again, second, "Stand") == "plain"
    segment_tags.set_tag(node, first, "Stand", "")
    assert not node.GetSegmentation().GetSegment(first).HasTag("PromptSeg.Stand")
    for call in (
        lambda: segment_tags.tag(node, "nobody", "a"),
        lambda: segment_tags.set_tag(node, "nobody", "a", "b"),
    ):
        with pytest.raises(PromptSegError, match="no segment with ID 'nobody'"):
            call()


def test_the_segmentation_of_a_volume_is_remembered(tmp_path):
    scene, volume, node = setup_nodes()
    assert node_references.remembered(volume) is None
    node_references.remember(volume, node)
    assert node_references.remembered(volume) is node
    save_scene(scene, tmp_path / "a.mrb")
    opened = load_scene(tmp_path / "a.mrb")
    assert node_references.remembered(opened.GetFirstNodeByName("CT")) is opened.GetFirstNodeByName("Segmentation")
    other = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "other")
    node_references.remember(volume, other)
    assert node_references.remembered(volume) is other
    scene.RemoveNode(other)
    assert node_references.remembered(volume) is None
    node_references.remember(volume, node)
    node_references.remember(volume, None)
    assert node_references.remembered(volume) is None


@pytest.mark.parametrize("earlier", [False, True], ids=["", "of an earlier version"])
def test_a_clone_of_a_volume_has_no_segmentation_yet(tmp_path, earlier):
    scene, volume, node = setup_nodes()
    if earlier:
        volume.SetNodeReferenceID(node_references.SEGMENTATION_ROLE, node.GetID())
        node_references.renew(scene)
    else:
        node_references.remember(volume, node)
    logic = slicer.vtkSlicerVolumesLogic()
    logic.SetMRMLScene(scene)
    clone = logic.CloneVolume(scene, volume, "filtered")
    assert node_references.remembered(clone) is None and node_references.remembered(volume) is node
    save_scene(scene, tmp_path / "a.mrb")
    opened = load_scene(tmp_path / "a.mrb")
    assert node_references.remembered(opened.GetFirstNodeByName("filtered")) is None
    assert node_references.remembered(opened.GetFirstNodeByName("CT")) is opened.GetFirstNodeByName("Segmentation")
    own = node_references.new_segmentation(scene, clone, "its own")
    node_references.remember(clone, own)
    assert node_references.remembered(clone) is own and node_references.remembered(volume) is node


def test_two_scenes_in_one_keep_their_segmentations_apart(tmp_path):
    """The same IDs come again, and are changed on import."""
    scene, volume, node = setup_nodes()
    node_references.remember(volume, node)
    save_scene(scene, tmp_path / "a.mrb")
    opened = load_scene(tmp_path / "a.mrb")
    scene.SetSaveToXMLString(1)
    scene.Commit()
    opened.SetLoadFromXMLString(1)
    opened.SetSceneXMLString(scene.GetSceneXMLString())
    opened.Import()
    volumes, nodes = (
        [opened.GetNthNodeByClass(n, f"vtkMRML{kind}Node") for n in range(2)]
        for kind in ("ScalarVolume", "Segmentation")
    )
    assert [node_references.remembered(each) for each in volumes] == nodes and None not in nodes


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("transforms", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_new_segmentation_lies_on_the_voxels_of_its_volume(transforms, direction):
    scene, volume, _ = setup_nodes((transforms[0], []), direction)
    node = node_references.new_segmentation(scene, volume, "CT segmentation")
    assert node.GetName() == "CT segmentation" and node.GetDisplayNode() is not None
    assert node.GetTransformNodeID() == volume.GetTransformNodeID()
    assert node.GetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole()) == volume.GetID()
    geometry = slicer.vtkOrientedImageData()
    converter = slicer.vtkSegmentationConverter
    text = node.GetSegmentation().GetConversionParameter(converter.GetReferenceImageGeometryParameterName())
    assert converter.DeserializeImageGeometry(text, geometry)
    assert np.allclose(node_to_world(node) @ matrix_of(geometry), volume_to_world(volume), atol=1e-6)
    assert geometry.GetDimensions() == volume.GetImageData().GetDimensions()
    assert node_references.new_segmentation(scene, volume, "CT segmentation").GetName() != node.GetName()


def test_volumes_that_cannot_be_segmented_get_no_segmentation():
    scene, volume, _ = setup_nodes()
    before = scene.GetNumberOfNodes()
    hollow = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "hollow")
    with pytest.raises(PromptSegError, match="'hollow' has no voxels"):
        node_references.new_segmentation(scene, hollow, "a")
    volume.SetAndObserveTransformNodeID(bent(scene))
    with pytest.raises(PromptSegError, match="non-linear"):
        node_references.new_segmentation(scene, volume, "a")
    assert scene.GetNumberOfNodes() == before + 2  # the hollow volume and the transform


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("transforms", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_segmentation_of_another_volume_is_told_from_ones_own(transforms, direction):
    scene, volume, node = setup_nodes(transforms, direction)
    assert node_references.same_place(volume, node)  # nothing is painted yet
    apply_result(node, volume, Segmentation(labels_like(image_from_volume(volume)), CLASSES))
    assert node_references.same_place(volume, node)
    put_under(scene, volume, ras(offset=(0, 0, 300)))
    assert not node_references.same_place(volume, node)
    assert node.GetSegmentation().CreateRepresentation("Closed surface")
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    node.GetSegmentation().RemoveRepresentation("Binary labelmap")
    assert not node_references.same_place(volume, node)


def test_surfaces_and_blank_layers_have_a_place_too():
    scene, volume, node = setup_nodes()
    add_segment(node, np.zeros((3, 3, 3), np.uint8), "erased", (500, 500, 500), ijk_to_ras(volume))
    node.GetSegmentation().AddEmptySegment("new")
    assert node_references.same_place(volume, node)
    add_segment(node, np.ones((3, 3, 3), np.uint8), "far", (500, 500, 500), ijk_to_ras(volume))
    assert not node_references.same_place(volume, node)
    add_segment(node, np.ones((3, 3, 3), np.uint8), "near", (-2, 11, 9), ijk_to_ras(volume))
    assert node_references.same_place(volume, node)

    surfaces = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "surfaces")
    apply_result(surfaces, volume, Segmentation(labels_like(image_from_volume(volume)), CLASSES[:1]))
    surfaces.GetSegmentation().CreateRepresentation("Closed surface")
    surfaces.GetSegmentation().SetSourceRepresentationName("Closed surface")
    surfaces.GetSegmentation().RemoveRepresentation("Binary labelmap")
    assert node_references.same_place(volume, surfaces)
    surfaces.SetAndObserveTransformNodeID(bent(scene))
    with pytest.raises(PromptSegError, match="non-linear"):
        node_references.same_place(volume, surfaces)


def test_watching_a_scene():
    scene, volume, node = setup_nodes()
    heard = []
    unwatch = scene_nodes.watch(
        scene,
        lambda gone: heard.append((gone.GetName(), scene_nodes.alive(scene, gone))),
        lambda: heard.append(("closing", scene_nodes.alive(scene, volume))),
        lambda: heard.append(("closed", scene_nodes.alive(scene, volume))),
    )
    assert scene_nodes.alive(scene, node) and not scene_nodes.alive(scene, None)
    scene.RemoveNode(node)
    assert heard == [("Segmentation", False)]
    scene.Clear(False)
    assert heard[1:] == [("closing", True), ("closed", False)]
    unwatch()
    unwatch()
    another = scene.AddNewNodeByClass("vtkMRMLTextNode", "text")
    scene.RemoveNode(another)
    scene.Clear(False)
    assert len(heard) == 3


def test_a_removed_node_takes_its_parts_along():
    scene, volume, node = setup_nodes()
    before = scene.GetNumberOfNodes()
    scene_nodes.remove(None)
    other = node_references.new_segmentation(scene, volume, "other")
    other.AddDefaultStorageNode()
    assert scene.GetNumberOfNodes() == before + 3
    scene_nodes.remove(other)
    scene_nodes.remove(other)
    assert scene.GetNumberOfNodes() == before
    assert not scene_nodes.alive(new_scene(), node) and scene_nodes.alive(scene, node)


def test_rotated_beside_the_volume_is_outside():
    """Boxes along the volume's own axes: beside an oblique volume is outside, though within its bounds in the world."""
    scene, volume, node = setup_nodes(direction=rotation(0, 0, 45))
    matrix = ijk_to_ras(volume)
    add_segment(node, np.ones((2, 2, 2), np.uint8), "aside", (-6, 4, 4), matrix)
    assert not node_references.same_place(volume, node)
