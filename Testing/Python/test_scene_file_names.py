"""Scenes under any name open again: Slicer does not escape every file name of a node in the scene's XML."""

from __future__ import annotations

import base64
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

import SimpleITK as sitk  # noqa: E402
from vtk.util.numpy_support import numpy_to_vtk  # noqa: E402

from harness.mrml_fixtures import add_volume, paint_strokes  # noqa: E402
from harness.prompts_fixtures import some_prompts  # noqa: E402
from harness.scene_files import load_scene, new_scene, save_scene  # noqa: E402
from harness.scene_nodes import segments_by_name  # noqa: E402
from PromptSegLib.annotation.classes import ClassInfo, is_name  # noqa: E402
from PromptSegLib.inference.result import Segmentation  # noqa: E402
from PromptSegLib.scene import node_references, prompt_nodes, salvage, segment_tags, slice_views, stored_results  # noqa: E402
from PromptSegLib.scene.placement import image_to_world, to_vtk  # noqa: E402
from PromptSegLib.scene.preview import Preview  # noqa: E402
from PromptSegLib.scene.storage import spoils_scene  # noqa: E402

NAMES = {
    "plain": "plain",
    "and": "Smith & Jones",
    "entity": "a &amp; b &lt;",
    "only &": "&",
    "angles": "T1 <post> & pre",
    "quotes": 'the "left" one\'s',
    "slashes": "CT/2024\\01",
    "percent": "50% a%26b %20",
    "letters": "Größe 肝臓 \u0645\u062e \U0001f9e0",
    "composed": "re\u0301nal",
    "marks": "a;b:c|d,e~f^g=h?i*j#k",
    "reserved": "CON",
    "reserved with suffix": "nul.nrrd",
    "dots": "..",
    "blanks": "  a  b ",
    "long": "x" * 300,
    "long letters": "é&" * 150,
    "empty": "",
}


def usable(name: str) -> str:
    """A name that a file of this file system can have."""
    return name.replace("/", "_").replace("\\", "_")[:80].strip().strip(".") or "x"


def a_scene(volume_name: str, segmentation_name: str, segment_name: str):
    """A tuned scene: a volume that was read from a file, strokes, memory and prompts."""
    scene = new_scene()
    volume, reference = add_volume(scene)
    volume.SetName(volume_name)
    volume.AddDefaultStorageNode()
    volume.GetStorageNode().SetFileName("scan.nrrd")
    segmentation = node_references.new_segmentation(scene, volume, segmentation_name)
    node_references.remember(volume, segmentation)
    paint_strokes(segmentation, volume, reference)
    ball = segments_by_name(segmentation)["ball"]
    segmentation.GetSegmentation().GetSegment(ball).SetName(segment_name)
    segment_tags.set_tag(segmentation, ball, "Class", segment_name)
    segment_tags.set_tag(segmentation, ball, "Number", "3")
    stored_results.write_memory(segmentation, {"applied": reference, "strokes": reference * 2})
    prompts = prompt_nodes.add_prompts(scene, some_prompts("liver", "spleen"), f"{segmentation_name} prompts")
    prompt_nodes.link(segmentation, prompts)
    return scene, segmentation, ball, reference


def check(scene, ball, reference, segment_name):
    segmentation = scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    kept = stored_results.read_memory(segmentation).images
    assert np.array_equal(sitk.GetArrayFromImage(kept["applied"]), sitk.GetArrayFromImage(reference))
    assert np.array_equal(sitk.GetArrayFromImage(kept["strokes"]), 2 * sitk.GetArrayFromImage(reference))
    assert prompt_nodes.prompts_of(prompt_nodes.linked(segmentation)).to_bytes() == (
        some_prompts("liver", "spleen").to_bytes()
    )
    assert segment_tags.tag(segmentation, ball, "Class") == segment_name
    assert segment_tags.tag(segmentation, ball, "Number") == "3"
    return segmentation


def hidden_and_saved(scene) -> list[str]:
    count = scene.GetNumberOfNodesByClass("vtkMRMLStorableNode")
    nodes = [scene.GetNthNodeByClass(n, "vtkMRMLStorableNode") for n in range(count)]
    return [node.GetName() for node in nodes if node.GetHideFromEditors() and node.GetSaveWithScene()]


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_scenes_open_again_whatever_anything_is_called(tmp_path, name):
    scene, _, ball, reference = a_scene(name, f"{name} segmentation", name)
    assert not hidden_and_saved(scene)
    for round_ in ("first", "again"):  # what was read is saved under another name
        path = tmp_path / round_ / f"{usable(name)}.mrb"
        path.parent.mkdir()
        assert scene.WriteToMRB(str(path))
        with zipfile.ZipFile(path) as bundle:
            assert not [each for each in bundle.namelist() if "_Private" in each]
        scene = load_scene(path)
        check(scene, ball, reference, name)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_plain_scene_files_open_again(tmp_path, name):
    """.mrml: the application's dialog writes the files of visible nodes, the scene its XML and what is hidden."""
    scene, segmentation, ball, reference = a_scene("CT", name, name)
    folder = tmp_path / usable(name)
    folder.mkdir()
    for node in (scene.GetFirstNodeByName("CT"), segmentation):
        node.AddDefaultStorageNode()
        suffix = ".nrrd" if node is not segmentation else ".seg.nrrd"
        node.GetStorageNode().SetFileName(str(folder / f"data{suffix}"))
        assert node.GetStorageNode().WriteData(node)
    scene.SetRootDirectory(str(folder))
    assert scene.Commit(str(folder / f"{usable(name)}.mrml"))
    opened = new_scene()
    opened.SetURL(str(folder / f"{usable(name)}.mrml"))
    assert opened.Import()
    check(opened, ball, reference, name)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_nothing_made_here_spoils_a_scene(tmp_path, name):
    """Previews, maps, prompts of hostile classes, recovered segmentations: beside a volume of any name with a file."""
    scene, segmentation, ball, reference = a_scene(name, f"{name} segmentation", name)
    volume = scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
    preview = Preview()
    preview.visible_3d = True
    preview.show(segmentation, volume, Segmentation(reference, (ClassInfo("x & <y>", 5, (1.0, 0.0, 0.0)),)))
    slice_views.show_map(scene, volume, sitk.Cast(reference > 0, sitk.sitkFloat32))
    recovered = salvage.put_back(scene, salvage.take(segmentation, volume), volume)
    classes = [each for each in ("a & b", name) if is_name(each)]
    prompts = prompt_nodes.add_prompts(scene, some_prompts(*classes), name)
    path = tmp_path / "x.mrb"
    assert scene.WriteToMRB(str(path))
    with zipfile.ZipFile(path) as bundle:
        assert not [each for each in bundle.namelist() if "preview" in each or "(PromptSeg)" in each]
    opened = load_scene(path)
    check(opened, ball, reference, name)
    assert opened.GetNodeByID(recovered.GetID()).GetSegmentation().GetNumberOfSegments() == 3
    assert prompt_nodes.prompts_of(opened.GetNodeByID(prompts.GetID())).names == classes
    assert not [each for each in (preview.node,) if opened.GetNodeByID(each.GetID())]


def test_two_segmentations_of_one_name_keep_apart(tmp_path):
    scene, first, _, reference = a_scene("CT", "A & B", "ball")
    second = node_references.new_segmentation(scene, scene.GetFirstNodeByName("CT"), "A & B")
    second.SetName(first.GetName())
    stored_results.write_memory(second, {"applied": reference * 3})
    save_scene(scene, tmp_path / "A & B.mrb")
    opened = load_scene(tmp_path / "A & B.mrb")
    one, two = (opened.GetNodeByID(each.GetID()) for each in (first, second))
    assert sorted(stored_results.read_memory(one).images) == ["applied", "strokes"]
    assert np.array_equal(
        sitk.GetArrayFromImage(stored_results.read_memory(two).images["applied"]), sitk.GetArrayFromImage(reference * 3)
    )


def test_our_own_saving_gives_a_new_volume_a_readable_file(tmp_path):
    scene = new_scene()
    volume, _ = add_volume(scene, "Smith & Jones")
    save_scene(scene, tmp_path / "a & b.mrb")
    assert load_scene(tmp_path / "a & b.mrb").GetFirstNodeByName("Smith & Jones") is not None
    assert not volume.GetStorageNode().GetFileName()


@pytest.mark.parametrize("name", ["a\x07b", "\x1b[31m", "a\ufffe & b"])
def test_our_own_saving_leaves_out_what_xml_has_no_room_for(tmp_path, name):
    scene, segmentation, ball, reference = a_scene("CT", "S", "ball")
    volume = scene.GetFirstNodeByName("CT")
    assert not spoils_scene(volume)
    for node in (volume, segmentation, prompt_nodes.linked(segmentation)):
        node.SetName(name)
        assert spoils_scene(node)
    save_scene(scene, tmp_path / "x.mrb")
    check(load_scene(tmp_path / "x.mrb"), ball, reference, "ball")
    assert volume.GetName() == segmentation.GetName() == name


@pytest.mark.parametrize("name", ["a\x07b", "\x1b[31m", "a\ufffe", "half \ud83e"])
def test_prompts_from_anywhere_do_not_spoil_a_scene(tmp_path, name):
    """Names of examples are what somebody else has written; names of nodes are made of others'."""
    scene, segmentation, ball, reference = a_scene("CT", "S", "ball")
    some = some_prompts("liver", "spleen")
    record = {"examples": [{"name": name, "complete": False}]}
    strange = replace(some, tuning={"0": record})
    node = prompt_nodes.add_prompts(scene, strange, f"{name} prompts")
    volume = scene.GetFirstNodeByName("CT")
    made = node_references.new_segmentation(scene, volume, f"{name} segmentation")
    taken = salvage.take(segmentation, volume)
    recovered = salvage.put_back(scene, replace(taken, described={**taken.described, "name": name}), volume)
    assert not any(spoils_scene(each) for each in (node, made, recovered))
    assert scene.WriteToMRB(str(tmp_path / "x.mrb"))
    opened = load_scene(tmp_path / "x.mrb")
    check(opened, ball, reference, "ball")
    assert prompt_nodes.prompts_of(opened.GetNodeByID(node.GetID())).tuning == strange.tuning


# Scenes of the version before, which kept the memory in hidden labelmap volumes and prompts as long texts


def write_as_before(scene, segmentation, images, prompts):
    for key in list(images):
        node = slicer.vtkMRMLLabelMapVolumeNode()
        node.HideFromEditorsOn()
        node.SetAttribute("PromptSeg.MemoryKey", key)
        node.SetNodeReferenceID("PromptSegMemoryOf", segmentation.GetID())
        node = scene.AddNode(node)
        data = slicer.vtkOrientedImageData()
        data.SetDimensions(images[key].GetSize())
        data.GetPointData().SetScalars(numpy_to_vtk(sitk.GetArrayFromImage(images[key]).ravel(), deep=True))
        node.SetName(f"{segmentation.GetName()} {key} (PromptSeg memory)")
        node.SetIJKToRASMatrix(to_vtk(image_to_world(images[key])))
        node.SetAndObserveImageData(data)
        segmentation.AddNodeReferenceID(stored_results.MEMORY_ROLE, node.GetID())
    node = slicer.vtkMRMLTextNode()
    node.SetName("S prompts")
    node.SetAttribute("PromptSeg.Prompts", "1")
    node.SetText(base64.b64encode(prompts.to_bytes()).decode("ascii"))
    node = scene.AddNode(node)
    prompt_nodes.link(segmentation, node)


def a_scene_as_before():
    scene = new_scene()
    volume, reference = add_volume(scene)
    segmentation = node_references.new_segmentation(scene, volume, "S")
    images = {"applied": reference, "strokes": reference * 2}
    write_as_before(scene, segmentation, images, some_prompts("liver", "spleen"))
    paint_strokes(segmentation, volume, reference)
    ball = segments_by_name(segmentation)["ball"]
    segment_tags.set_tag(segmentation, ball, "Class", "ball")
    segment_tags.set_tag(segmentation, ball, "Number", "3")
    return scene, ball, reference


def test_scenes_of_the_version_before_are_read(tmp_path):
    scene, ball, reference = a_scene_as_before()
    save_scene(scene, tmp_path / "before.mrb")
    opened = load_scene(tmp_path / "before.mrb")
    check(opened, ball, reference, "ball")
    assert len(hidden_and_saved(opened)) == 2


def test_scenes_of_the_version_before_can_be_saved_under_any_name(tmp_path):
    scene, ball, reference = a_scene_as_before()
    save_scene(scene, tmp_path / "before.mrb")
    opened = load_scene(tmp_path / "before.mrb")
    orphan = opened.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "orphan")
    orphan.SetAttribute("PromptSeg.MemoryKey", "applied")
    orphan.HideFromEditorsOn()
    stored_results.renew(opened)
    prompt_nodes.renew(opened)
    assert not hidden_and_saved(opened)
    node = check(opened, ball, reference, "ball")
    node.GetNodeReference(prompt_nodes.PROMPTS_ROLE).SetName("Smith & Jones")
    path = Path(tmp_path / "Smith & Jones.mrb")
    assert opened.WriteToMRB(str(path))
    check(load_scene(path), ball, reference, "ball")


@pytest.mark.parametrize("text", [".", "e30.", "bm8.bm8", "x" * 50, "W10.AAAA", "{}.{}"])
def test_damaged_memory_is_no_memory(text):
    scene, segmentation, *_ = a_scene("CT", "S", "ball")
    good = segmentation.GetAttribute("PromptSeg.Memory.applied")
    for damaged in (text, text + good, good[:-8], good.partition(".")[0] + "." + text):
        segmentation.SetAttribute("PromptSeg.Memory.applied", damaged)
        assert "applied" not in stored_results.read_memory(segmentation).images, damaged[:40]


@pytest.mark.parametrize(
    "change",
    [
        {"size": [2**20, 2**20, 2**20]},
        {"size": [-1, -1, 5]},
        {"size": [40, 40]},
        {"type": "object"},
        {"matrix": [float("nan")] * 16},
        {"matrix": [0] * 16},
        {"to_world": [0] * 16},
        {"to_world": "x"},
        {"lattice": [1]},
    ],
)
def test_memory_that_claims_something_else_is_no_memory(change):
    import json

    _, segmentation, *_ = a_scene("CT", "S", "ball")
    head, _, body = segmentation.GetAttribute("PromptSeg.Memory.applied").partition(".")
    header = {**json.loads(base64.urlsafe_b64decode(head)), **change}
    text = base64.urlsafe_b64encode(json.dumps(header).encode()).decode()
    segmentation.SetAttribute("PromptSeg.Memory.applied", f"{text}.{body}")
    assert "applied" not in stored_results.read_memory(segmentation).images


@pytest.mark.parametrize("kind", ["itself", "text", "vector"])
def test_a_memory_that_is_no_image_is_no_memory(kind):
    """Anybody may write references into a scene."""
    scene, segmentation, *_ = a_scene("CT", "S", "ball")
    before = sorted(stored_results.read_memory(segmentation).images)
    segmentation.RemoveAttribute("PromptSeg.Memory.applied")
    segmentation.RemoveAttribute("PromptSeg.Memory.strokes")
    names = {"text": "vtkMRMLTextNode", "vector": "vtkMRMLVectorVolumeNode"}
    node = segmentation if kind == "itself" else scene.AddNewNodeByClass(names[kind], "x")
    node.SetAttribute("PromptSeg.MemoryKey", "applied")
    node.SetNodeReferenceID("PromptSegMemoryOf", segmentation.GetID())
    segmentation.AddNodeReferenceID(stored_results.MEMORY_ROLE, node.GetID())
    assert before and not stored_results.read_memory(segmentation).images
    stored_results.renew(scene)
    assert scene.GetNodeByID(segmentation.GetID()) is segmentation
