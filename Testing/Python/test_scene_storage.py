"""Segmentation files and scenes, read back by Slicer's own reader (slicer-core)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

import SimpleITK as sitk  # noqa: E402

from harness import scene_files as storage  # noqa: E402
from harness.mrml_segments import (  # noqa: E402
    CLASSES,
    DIRECTIONS,
    TRANSFORMS,
    labels_like,
    setup_nodes,
    user_segmentation,
    voxels_of,
    world_points,
)
from harness.mrml_volumes import put_under, ras, rotation  # noqa: E402
from harness.scene_files import load_scene, new_scene, save_scene, save_segmentation  # noqa: E402
from harness.scene_nodes import (  # noqa: E402
    annotation_from_segmentation,
    image_from_volume,
    segments_by_name,
    volume_from_image,
)
from PromptSegLib.annotation.classes import ClassInfo  # noqa: E402
from PromptSegLib.errors import PromptSegError  # noqa: E402
from PromptSegLib.inference.result import Segmentation  # noqa: E402
from PromptSegLib.inference.writing import write_segmentation  # noqa: E402
from PromptSegLib.scene.placement import node_to_world  # noqa: E402
from PromptSegLib.scene.segment_list import add_segment  # noqa: E402
from PromptSegLib.scene.segmentations import apply_result  # noqa: E402


def a_result(direction=None, dtype=np.uint8):
    image = sitk.Image([14, 12, 10], sitk.sitkInt16)
    image.SetSpacing((0.8, 1.1, 2.5))
    image.SetOrigin((-20, 13, 4))
    image.SetDirection(np.ravel(np.eye(3) if direction is None else direction))
    return Segmentation(labels_like(image, dtype), CLASSES)


def read_segmentation(path):
    node = new_scene().AddNewNodeByClass("vtkMRMLSegmentationNode", "read")
    reader = slicer.vtkMRMLSegmentationStorageNode()
    reader.SetFileName(str(path))
    assert reader.ReadData(node)
    return node


def check_segments(node, labels, classes, matrix=None):
    names = segments_by_name(node)
    assert list(names) == [info.name for info in classes]
    for info in classes:
        segment = node.GetSegmentation().GetSegment(names[info.name])
        assert np.allclose(segment.GetColor(), info.color, atol=1e-4)
        if info.terminology:
            assert segment.GetTerminology() == info.terminology
    back = annotation_from_segmentation(node, None, {names[info.name]: info.value for info in classes})
    for info in classes:
        expected = world_points(labels, info.value)
        assert len(expected)
        assert np.allclose(world_points(back, info.value), expected, atol=1e-4)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_slicer_reads_what_the_command_line_writes(tmp_path, direction, dtype):
    result = a_result(direction, dtype)
    path = tmp_path / "result.seg.nrrd"
    write_segmentation(result, path)
    check_segments(read_segmentation(path), result.labels, CLASSES)
    assert [one.name for one in tmp_path.iterdir()] == ["result.seg.nrrd"]


def test_result_without_voxels_keeps_its_classes(tmp_path):
    labels = sitk.Image([6, 5, 4], sitk.sitkUInt8)
    write_segmentation(Segmentation(labels, CLASSES), tmp_path / "empty.seg.nrrd")
    assert list(segments_by_name(read_segmentation(tmp_path / "empty.seg.nrrd"))) == [info.name for info in CLASSES]


def test_names_beyond_ascii(tmp_path):
    result = Segmentation(a_result().labels, (ClassInfo("Läsion | links: 2", 5, (1.0, 0.5, 0.25)),))
    write_segmentation(result, tmp_path / "a.seg.nrrd")
    check_segments(read_segmentation(tmp_path / "a.seg.nrrd"), result.labels, result.classes)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd"])
def test_plain_label_maps(tmp_path, suffix):
    result = a_result(DIRECTIONS["oblique"])
    path = tmp_path / f"labels{suffix}"
    write_segmentation(result, path)
    back = sitk.ReadImage(str(path), imageIO="NrrdImageIO" if suffix == ".nrrd" else "NiftiImageIO")
    assert np.array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(result.labels))
    assert np.allclose(back.GetOrigin(), result.labels.GetOrigin(), atol=1e-4)
    assert np.allclose(back.GetDirection(), result.labels.GetDirection(), atol=1e-5)
    assert not any(key.startswith("Segment") for key in back.GetMetaDataKeys())


def test_wrong_suffix_or_folder(tmp_path):
    with pytest.raises(PromptSegError, match="use .seg.nrrd"):
        write_segmentation(a_result(), tmp_path / "labels.png")
    with pytest.raises(PromptSegError):
        write_segmentation(a_result(), tmp_path / "nowhere" / "labels.nii.gz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_saved_segmentation(tmp_path, direction):
    _, volume, node = setup_nodes(direction=direction)
    labels = labels_like(image_from_volume(volume))
    apply_result(node, volume, Segmentation(labels, CLASSES))
    path = tmp_path / "node.seg.nrrd"
    path.write_text("old")
    save_segmentation(node, path)
    check_segments(read_segmentation(path), labels, CLASSES)
    assert [one.name for one in tmp_path.iterdir()] == ["node.seg.nrrd"]
    assert node.GetStorageNode() is None, "the node is not tied to the file"


@pytest.mark.parametrize("made", ["here", "by Slicer"])
@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_an_empty_segment_before_the_others_changes_no_grid(tmp_path, direction, made):
    """Slicer saves all segments on the grid of the first, which an empty one had none of."""
    scene, volume, node = setup_nodes(direction=direction)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    if made == "here":
        add_segment(node, ClassInfo("background", 1, (0.5, 0.5, 0.5)))
    else:
        node.GetSegmentation().AddEmptySegment("background", "background")
    labels = labels_like(image_from_volume(volume))
    ids = apply_result(node, volume, Segmentation(labels, CLASSES))
    save_scene(scene, tmp_path / "saved.mrb")
    opened = load_scene(tmp_path / "saved.mrb")
    for each in (node, opened.GetNodeByID(node.GetID())):
        found = annotation_from_segmentation(each, volume, {ids[info.name]: info.value for info in CLASSES})
        truth = sitk.GetArrayFromImage(sitk.Resample(labels, found, sitk.Transform(), sitk.sitkNearestNeighbor))
        assert np.array_equal(sitk.GetArrayFromImage(found), truth)
        assert (truth > 0).sum() == (sitk.GetArrayFromImage(labels) > 0).sum()
        labelmap = each.GetSegmentation().GetSegment(segments_by_name(each)[CLASSES[0].name])
        assert np.allclose(labelmap.GetRepresentation("Binary labelmap").GetSpacing(), volume.GetSpacing())


def test_failed_saving_leaves_the_old_file(tmp_path, monkeypatch):
    _, volume, node = setup_nodes()
    path = tmp_path / "node.seg.nrrd"
    path.write_text("old")

    class FullDisk:
        def SetFileName(self, name):
            self.name = name

        def UseCompressionOn(self):
            pass

        def WriteData(self, _):
            with open(self.name, "w") as file:
                file.write("half")
            return 0

    monkeypatch.setattr(storage, "slicer", SimpleNamespace(vtkMRMLSegmentationStorageNode=FullDisk))
    with pytest.raises(PromptSegError, match="Cannot write"):
        save_segmentation(node, path)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(PromptSegError, match="seg.nrrd"):
        save_segmentation(node, tmp_path / "node.nii.gz")


def test_scene_round_trip(tmp_path):
    volume, node, first, second, third = user_segmentation(TRANSFORMS["both"], aligned=True)
    scene = node.GetScene()
    other = volume_from_image(scene, image_from_volume(volume), "second volume")
    put_under(scene, other, ras(rotation(3), (1, 2, 3)))
    labels = labels_like(image_from_volume(volume))
    ids = apply_result(node, volume, Segmentation(labels, CLASSES))
    before = {one: voxels_of(node, one)[0].sum() for one in (first, second, third, *ids.values())}
    path = tmp_path / "case one.mrb"
    save_scene(scene, path)
    assert [one.name for one in tmp_path.iterdir()] == ["case one.mrb"]

    opened = load_scene(path)
    assert {opened.GetNodesByClass("vtkMRMLScalarVolumeNode").GetItemAsObject(n).GetName() for n in (0, 1)} == {
        "CT",
        "second volume",
    }
    again = opened.GetFirstNodeByName("Segmentation")
    assert np.allclose(node_to_world(again), node_to_world(node))
    assert np.allclose(node_to_world(opened.GetFirstNodeByName("second volume")), node_to_world(other))
    images = [image_from_volume(one) for one in (volume, opened.GetFirstNodeByName("CT"))]
    assert np.array_equal(*(sitk.GetArrayFromImage(image) for image in images))
    assert np.allclose(*(image.GetOrigin() for image in images), atol=1e-4)
    for one in before:
        old, new = (x.GetSegmentation().GetSegment(one) for x in (node, again))
        assert (new.GetName(), new.GetTerminology()) == (old.GetName(), old.GetTerminology())
        assert np.allclose(new.GetColor(), old.GetColor(), atol=1e-4)
        assert voxels_of(again, one)[0].sum() == before[one]
    back = annotation_from_segmentation(again, None, {ids[info.name]: info.value for info in CLASSES})
    for info in CLASSES:
        assert np.allclose(world_points(back, info.value), world_points(labels, info.value), atol=1e-3)
    # The next result knows the segments that the last one made.
    assert apply_result(again, opened.GetFirstNodeByName("CT"), Segmentation(labels, CLASSES)) == ids


def test_bad_scene_files(tmp_path):
    with pytest.raises(PromptSegError, match="mrb"):
        save_scene(new_scene(), tmp_path / "scene.mrml")
    with pytest.raises(PromptSegError, match="does not exist"):
        load_scene(tmp_path / "none.mrb")
    (tmp_path / "bad.mrb").write_text("not a zip")
    folder = Path.cwd()
    with pytest.raises(PromptSegError, match="damaged"):
        load_scene(tmp_path / "bad.mrb")
    assert Path.cwd() == folder
