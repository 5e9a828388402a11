"""The session's prompts: their list, segmenting with them, and examples on other volumes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("slicer")

from vtk.util.numpy_support import vtk_to_numpy

from harness.mrml_fixtures import (
    box_in,
    content,
    mask_of,
    nodes_of,
    paint,
    run,
)
from harness.scene_files import load_scene, save_scene
from harness.scene_nodes import segments_by_name
from harness.session_harness import group_of
from harness.tiny_model import CLASSES, painted, phantom
from PromptSegLib.gui.segments_table import choose_role
from PromptSegLib.models import catalogue
from PromptSegLib.prompts import store
from PromptSegLib.prompts.store import Prompts
from PromptSegLib.scene import node_references, prompt_nodes, scene_nodes
from PromptSegLib.scene.segmentations import segments

# Prompts


@pytest.fixture
def listed(models, tmp_path_factory, monkeypatch) -> None:
    """Both tiny backbones in the catalogue."""
    items = json.loads(catalogue.CATALOGUE.read_text())
    for seed in (0, 1):
        path = models / f"tiny{seed}.safetensors"
        item = {
            "name": f"tiny{seed}",
            "title": f"Tiny {seed}",
            "modality": "CT",
            "spacing": [3, 2, 2],
            "classes": ["liver", "spleen", "aorta"],
            "licence": "none",
            "file": str(path),
            "prompts": str(path.with_suffix(".prompts.safetensors")),
            "sha256": catalogue.sha256_of(path),
        }
        items["models"].append(item)
    path = tmp_path_factory.mktemp("catalogue") / "catalogue.json"
    path.write_text(json.dumps(items))
    monkeypatch.setattr(catalogue, "CATALOGUE", path)


def test_the_list_of_prompts(desk, listed, tmp_path):
    session = desk.session
    shipped = session.view().prompts
    assert [(row.key, row.classes, row.shipped) for row in shipped] == [
        ("shipped:tiny0", ("liver", "spleen", "aorta"), True)
    ]
    desk.tuned()
    own = next(row for row in session.view().prompts if not row.shipped)
    assert own.current and own.classes == ("ball", "rod") and not own.reason

    session.prompts.save(own.key, tmp_path / "mine.safetensors")
    assert "Saved" in desk.notice
    assert Prompts.load(tmp_path / "mine.safetensors").to_bytes() == desk.own_prompts().to_bytes()
    session.prompts.save(shipped[0].key, tmp_path / "shipped.safetensors")
    assert Prompts.load(tmp_path / "shipped.safetensors").names == ["liver", "spleen", "aorta"]

    session.prompts.load(tmp_path / "mine.safetensors")
    loaded = session.view().prompts[-1]
    assert loaded.name == "mine" and not loaded.current and loaded.key != own.key
    session.prompts.rename(loaded.key, "  thorax  ")
    assert session.view().prompts[-1].name == "thorax"
    session.prompts.delete(loaded.key)
    assert [row.key for row in session.view().prompts] == [shipped[0].key, own.key]

    # The current ones deleted: segments stay, and a retuning still goes on from them.
    before = content(desk.segmentation)
    session.prompts.delete(own.key)
    assert content(desk.segmentation) == before and len(session.view().prompts) == 1
    desk.paint("ball", box_in(desk.mask("ball")), "erase")
    desk.tuned()
    assert "start" in desk.last_job.arrays and set(desk.own_prompts().names) == {"ball", "rod"}


def test_what_cannot_be_done_with_prompts(desk, listed, tmp_path):
    desk.tuned()
    key, nodes, session = desk.own_key(), nodes_of(desk.scene), desk.session
    (tmp_path / "damaged.safetensors").write_bytes(b"no prompts")
    for action in (
        lambda: session.prompts.rename("shipped:tiny0", "mine"),
        lambda: session.prompts.delete("shipped:tiny0"),
        lambda: session.prompts.rename(key, "  "),
        lambda: session.prompts.rename("vtkMRMLTextNode99", "mine"),
        lambda: session.prompts.delete(desk.volume.GetID()),
        lambda: session.prompts.save("", tmp_path / "none.safetensors"),
        lambda: session.prompts.save(key, tmp_path / "mine.txt"),
        lambda: session.prompts.save(key, tmp_path / "no folder" / "mine.safetensors"),
        lambda: session.prompts.load(tmp_path / "missing.safetensors"),
        lambda: session.prompts.load(tmp_path / "damaged.safetensors"),
        lambda: session.prompts.load(tmp_path),
        lambda: session.segment("shipped:nothing"),
        lambda: session.segment(""),
    ):
        session.prompts.load(desk.models / "tiny1.prompts.safetensors")  # so that an older notice is gone
        session.prompts.delete(session.view().prompts[-1].key)
        assert session.view().notice.level == "info", session.view().notice
        action()
        assert session.view().notice.level == "error" and session.view().notice.text.endswith(".")
        assert nodes_of(desk.scene) == nodes and not session.view().busy
    assert {path.name for path in tmp_path.iterdir()} == {"damaged.safetensors"}


def test_own_prompts_of_a_model_that_is_a_file(desk, tmp_path):
    """They can be saved, so they can be loaded again."""
    desk.tuned()
    desk.session.prompts.save(desk.own_key(), tmp_path / "mine.safetensors")
    desk.session.prompts.load(tmp_path / "mine.safetensors")
    assert desk.level == "info", desk.notice
    assert desk.session.view().prompts[-1].name == "mine" and not desk.session.view().prompts[-1].reason


def test_prompts_of_another_backbone(desk, listed):
    desk.session.prompts.load(desk.models / "tiny1.prompts.safetensors")
    row = desk.session.view().prompts[-1]
    assert row.reason == "These prompts belong to the model Tiny 1; choose that model."
    before, sent = desk.state(), len(desk.workers.jobs)
    desk.session.segment(row.key)
    run(desk.session)
    assert desk.level == "error" and desk.notice == row.reason
    assert desk.state() == before and len(desk.workers.jobs) == sent


def test_prompts_of_an_earlier_version_of_the_model(desk, listed, tmp_path):
    """As after an update that came with other weights under the same name."""
    desk.tuned()
    earlier = replace(desk.own_prompts(), sha256="ab" * 32)
    prompt_nodes.update_prompts(prompt_nodes.linked(desk.segmentation), earlier)
    row = desk.session.view().prompts[-1]
    assert "a version of the model tiny0 that is not here" in row.reason and row.current
    desk.session.segment(row.key)
    assert desk.level == "error" and desk.notice == row.reason
    earlier.save(tmp_path / "earlier.safetensors")
    desk.session.prompts.load(tmp_path / "earlier.safetensors")
    assert desk.level == "error" and desk.notice == f"earlier.safetensors: {row.reason}"


def test_prompts_of_the_scene_after_another_model_was_chosen(desk):
    desk.tuned()
    desk.paint("ball", box_in(desk.mask("ball")), "erase")
    desk.session.parameters.model = str(desk.models / "tiny1.safetensors")
    assert "tiny0" in desk.session.view().prompts[-1].reason
    desk.tune()  # begins anew, on the strokes and corrections
    assert "start" not in desk.last_job.arrays and set(desk.last_job.values["wanted"]) == {"ball", "rod"}
    desk.apply()
    assert desk.own_prompts().backbone == "tiny1"


# Segmenting with prompts


def test_own_prompts_on_the_current_volume(desk):
    desk.tuned()
    desk.session.history.undo()
    before = desk.state()
    desk.session.segment(desk.own_key())
    run(desk.session)
    assert desk.session.view().preview == "Result" and desk.level == "info"
    assert content(desk.segmentation) == before[0]
    desk.apply()
    for name, value in CLASSES.items():  # what is painted is honored, and grown
        assert desk.mask(name)[desk.strokes == value].all()
    assert desk.session.view().tune_text == "Retune"


def test_shipped_prompts_then_correct_and_retune(desk, listed):
    desk.segmentation.GetSegmentation().RemoveAllSegments()
    desk.session.segment("shipped:tiny0")
    run(desk.session)
    assert desk.session.view().preview == "Result", desk.notice
    desk.apply()
    names = [each.name for each in segments(desk.segmentation)]
    assert names == ["liver", "spleen", "aorta"]
    largest = max(names, key=lambda name: desk.mask(name).sum())
    erased = box_in(desk.mask(largest), 4)
    desk.paint(largest, erased, "erase")
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {largest}
    desk.apply()
    assert not desk.mask(largest)[erased].any()


def test_segmenting_with_other_prompts_keeps_what_was_tuned(desk, listed):
    """A retuning goes on with what was tuned, whatever was segmented in between."""
    desk.tuned()
    tuned = desk.own_prompts()
    desk.session.segment("shipped:tiny0")
    run(desk.session)
    desk.apply()
    assert set(desk.own_prompts().names) >= {"ball", "rod"}
    desk.paint("ball", box_in(desk.mask("ball")), "erase")
    desk.tune()
    start = Prompts.from_bytes(desk.last_job.arrays["start"].tobytes())
    assert group_of(start, "rod") == group_of(tuned, "rod")
    assert set(desk.last_job.values["wanted"]) == {"ball"}


def test_prompts_on_other_volumes(desk):
    desk.tuned()
    one, other = desk.another_volume("One", paint_it=False), desk.another_volume("Two", seed=6)
    before, strokes = content(desk.segmentation), content(node_references.remembered(other))
    places = desk.session.view().look
    desk.session.segment(desk.own_key(), [one, other])
    run(desk.session)
    assert desk.level == "info", desk.notice
    assert content(desk.segmentation) == before and not desk.session.view().preview
    assert desk.session.view().look == places
    for volume in (one, other):
        made = node_references.remembered(volume)
        assert mask_of(made, volume, "ball").any() and mask_of(made, volume, "rod").any()
    painted_there = sitk.GetArrayFromImage(painted(phantom(seed=6)[1]))
    assert mask_of(node_references.remembered(other), other, "ball")[painted_there == CLASSES["ball"]].all()

    # It is an AI step like any other: it can be undone, and corrected.
    desk.session.inputs.choose_volume(other)
    assert desk.session.view().tune_text == "Retune"
    desk.session.history.undo()
    assert content(node_references.remembered(other)) == strokes


def test_a_result_on_another_volume_can_be_corrected_and_retuned(desk):
    desk.tuned()
    other = desk.another_volume(paint_it=False)
    desk.session.segment(desk.own_key(), [other])
    run(desk.session)
    desk.session.inputs.choose_volume(other)
    desk.volume, desk.segmentation = other, node_references.remembered(other)
    erased = box_in(desk.mask("ball"), 3)
    desk.paint("ball", erased, "erase")
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {"ball"} and "start" in desk.last_job.arrays
    desk.apply()
    assert not desk.mask("ball")[erased].any()


def test_segmenting_another_volume_again_keeps_its_corrections(desk):
    desk.tuned()
    other = desk.another_volume(paint_it=False)
    desk.session.segment(desk.own_key(), [other])
    run(desk.session)
    there = node_references.remembered(other)
    result = mask_of(there, other, "ball")
    erased = box_in(result, 3)
    paint(there, other, erased.astype(np.uint8), {"ball": 1}, "erase")
    desk.session.segment(desk.own_key(), [other])
    run(desk.session)
    assert desk.level == "info", desk.notice
    strokes, array = desk.last_job.values["strokes"], desk.last_job.arrays["annotation0"]
    ball = desk.own_prompts().values["ball"]
    (erasing,) = [int(value) for value, other in strokes["barred"].items() if other == ball]
    # What the network said is no stroke; some of it stands for a class that has none.
    assert (array == erasing).sum() == erased.sum() and (array == ball).sum() < result.sum() / 2
    assert not mask_of(there, other, "ball")[erased].any()


def test_a_volume_that_the_worker_refuses_is_left_out_alone(desk):
    desk.tuned()
    bad, last = desk.another_volume("Bad", paint_it=False), desk.another_volume("Last", paint_it=False)
    voxels = vtk_to_numpy(bad.GetImageData().GetPointData().GetScalars())
    voxels[0] = np.nan
    notices = []
    desk.session.actions.on_change(lambda: notices.append(desk.notice))
    desk.session.segment(desk.own_key(), [desk.volume, bad, last])
    run(desk.session)
    assert desk.session.view().preview == "Result"  # of the current volume
    assert any(notice.startswith("'Bad' was left out: ") and "NaN" in notice for notice in notices)
    assert mask_of(node_references.remembered(last), last, "ball").any() and node_references.remembered(bad) is None


def test_a_cleaned_result_on_another_volume_comes_whatever_is_looked_at(desk):
    desk.tuned()
    other = desk.another_volume(paint_it=False)
    desk.session.parameters.largestComponent = True
    desk.session.segment(desk.own_key(), [other])
    run(desk.session, until=lambda session: session.results.background.working and session.jobs.active is None)
    desk.session.inputs.choose_volume(other)
    run(desk.session)
    assert mask_of(node_references.remembered(other), other, "ball").any()


@pytest.mark.parametrize("role, overlap", [("background", "keep"), ("background", "overwrite"), ("ignore", "overlap")])
def test_a_segment_of_another_role_is_no_place_for_a_result(desk, role, overlap):
    desk.tuned()
    desk.session.parameters.overlap = overlap
    choose_role(desk.segmentation, desk.id_of("ball"), role)
    before = desk.mask("ball")
    desk.session.segment(desk.own_key())
    run(desk.session)
    desk.session.apply()
    run(desk.session)
    assert "left out" in desk.notice and "ball" in desk.notice
    after = desk.mask("ball")
    assert (after <= before).all() and (overlap == "overwrite" or np.array_equal(after, before))


def test_undo_of_prompts_to_a_result_that_had_none(desk, listed):
    desk.session.segment("shipped:tiny0")
    run(desk.session)
    desk.session.apply()
    run(desk.session)
    assert desk.session.view().tune_text == "Tune prompts"
    desk.tuned()
    node, tuned = prompt_nodes.linked(desk.segmentation), desk.own_prompts().to_bytes()
    desk.session.history.undo()
    assert prompt_nodes.linked(desk.segmentation) is None and desk.session.view().tune_text == "Tune prompts"
    assert prompt_nodes.prompts_of(node).to_bytes() == tuned  # it stays in the list
    desk.session.history.redo()
    assert prompt_nodes.prompt_nodes(desk.scene) == [node] and desk.session.view().tune_text == "Retune"
    desk.session.history.undo()
    desk.tuned()
    assert "start" not in desk.last_job.arrays and prompt_nodes.prompts_of(node).to_bytes() == tuned
    assert prompt_nodes.linked(desk.segmentation) is not node


def test_other_prompts_leave_those_of_a_scene_that_was_opened_again(desk, listed, tmp_path):
    """What went on with which prompts before is not known there."""
    desk.tuned()
    save_scene(desk.scene, tmp_path / "tuned.mrb")
    desk.session.close()
    desk.scene = load_scene(tmp_path / "tuned.mrb")
    desk.volume = desk.scene.GetFirstNodeByName("CT")
    desk.session = desk.new_session(desk.scene)
    desk.session.inputs.choose_volume(desk.volume)
    desk.segmentation = desk.session.parameters.segmentation
    tuned = desk.own_prompts().to_bytes()
    desk.session.segment("shipped:tiny0")
    run(desk.session)
    desk.session.apply()
    run(desk.session)
    desk.paint("ball", box_in(desk.mask("ball")), "erase")
    desk.tuned()
    assert desk.own_prompts().to_bytes() != tuned
    desk.session.history.undo()
    assert desk.own_prompts().to_bytes() == tuned
    desk.session.history.undo()
    assert desk.own_prompts().to_bytes() == tuned and desk.session.view().tune_text == "Retune"


def test_corrections_stay_when_other_prompts_segment(desk, listed):
    desk.tuned()
    erased = box_in(desk.mask("ball"))
    desk.paint("ball", erased, "erase")
    desk.session.segment("shipped:tiny0")
    run(desk.session)
    desk.session.apply()
    run(desk.session)
    assert "liver" in segments_by_name(desk.segmentation)
    desk.session.tune()
    run(desk.session)
    assert desk.last_job.said()["not ball"].sum() == erased.sum()


def test_cancel_while_other_volumes_are_segmented(desk):
    desk.tuned()
    volumes = [desk.another_volume(name, paint_it=False) for name in ("One", "Two")]
    before = desk.state()
    desk.session.segment(desk.own_key(), volumes)
    desk.session.cancel()
    run(desk.session)
    assert desk.state() == before
    assert desk.notice.startswith("Cancelled")


def test_one_of_several_volumes_cannot_be_segmented(desk):
    desk.tuned()
    gone, last = desk.another_volume("Gone", paint_it=False), desk.another_volume("Last", paint_it=False)
    surfaces = desk.another_volume("Surfaces")
    made_of_surfaces = node_references.remembered(surfaces).GetSegmentation()
    made_of_surfaces.CreateRepresentation("Closed surface")
    made_of_surfaces.SetSourceRepresentationName("Closed surface")
    scene_nodes.remove(gone)
    empty = desk.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
    nodes = nodes_of(desk.scene)
    desk.session.segment(desk.own_key(), [gone, empty, surfaces, last])
    run(desk.session)
    assert not desk.session.view().busy
    assert (
        node_references.remembered(last) is not None and mask_of(node_references.remembered(last), last, "ball").any()
    )
    assert node_references.remembered(empty) is None
    assert {"Empty segmentation", "Gone segmentation"}.isdisjoint(node[2] for node in nodes_of(desk.scene))
    assert set(nodes) <= set(nodes_of(desk.scene))


# Examples


def test_further_volumes_teach(desk):
    desk.session.inputs.add_example(desk.volume)
    assert desk.level == "error"
    plain = desk.another_volume("Plain", paint_it=False)
    desk.session.inputs.add_example(plain)
    assert desk.level == "error" and "segmentation" in desk.notice
    one, other = desk.another_volume("One"), desk.another_volume("Two", seed=8)
    others = node_references.remembered(other)
    others.GetSegmentation().GetSegment(segments_by_name(others)["rod"]).SetName("unlike")
    for volume in (one, other, one):
        desk.session.inputs.add_example(volume)
    assert desk.session.view().examples == (("Two", "Two strokes"), ("One", "One strokes"))
    desk.session.tune()
    run(desk.session)
    assert desk.level == "warning" and "Two does not teach unlike" in desk.notice
    job = desk.last_job
    assert len(job.values["examples"]) == 3 and len({each["image"] for each in job.values["examples"]}) == 3
    assert set(job.said(0)) == {"ball", "rod", "background"} == set(job.said(2))
    assert set(job.said(1)) == {"ball", "background"}
    desk.session.discard()

    desk.session.inputs.remove_example(other)
    scene_nodes.remove(one)
    desk.tune()
    assert len(desk.last_job.values["examples"]) == 1 and desk.session.view().examples == ()


def test_an_example_with_nothing_painted_teaches_nothing(desk):
    other = desk.another_volume()
    for name in ("ball", "rod", "background"):
        paint(node_references.remembered(other), other, np.zeros((20, 40, 48), np.uint8), {name: 1})
    desk.session.inputs.add_example(other)
    desk.tune()
    assert len(desk.last_job.values["examples"]) == 1


def strokes_in(prompts: Prompts) -> dict[str, np.ndarray]:
    """What prompts carry of the one image that they were tuned on: class or "background" -> bool (z, y, x)."""
    (strokes,) = prompts.strokes
    labels = strokes.unpack(list(prompts.values.values()))
    return {name: labels == index for index, name in enumerate(["background", *prompts.names])}


@pytest.mark.parametrize("how", ["a class more", "a class again"])
def test_strokes_of_classes_that_are_not_tuned_now_stay_theirs(desk, tmp_path, how):
    """Known not to be the class that is tuned, they must not become background of the others."""
    desk.tuned()
    before = strokes_in(desk.own_prompts())
    assert before["ball"].any() and before["rod"].any()
    corner = np.zeros(desk.strokes.shape, bool)
    corner[2:5, 34:38, 4:10] = True
    desk.paint("corner", corner)
    desk.tuned()
    assert set(desk.last_job.values["wanted"]) == {"corner"} and len(desk.last_job.values["others"]) == 2
    if how == "a class again":
        desk.paint("corner", box_in(corner), "erase")
        desk.tuned()
        assert set(desk.last_job.values["classes"]) == {"corner"}
        corner &= ~box_in(corner)
    now = strokes_in(desk.own_prompts())
    for name in ("ball", "rod", "background"):
        assert (now[name] == before[name]).all(), name
    assert (now["corner"] & corner).any() and not (now["corner"] & ~corner).any()
    path = tmp_path / "saved.safetensors"
    desk.session.prompts.save(desk.own_key(), path)
    saved = strokes_in(Prompts.load(path))
    assert all((saved[name] == now[name]).all() for name in now)


def test_strokes_without_room_in_the_file_lie_beside_it(desk, tmp_path, monkeypatch):
    """They live with the prompts in the scene, through a retuning, a saved scene and undo; a file has one beside it."""
    desk.tuned()
    before = strokes_in(desk.own_prompts())
    monkeypatch.setattr(store, "_STROKES_PER_CLASS", 40)
    corner = np.zeros(desk.strokes.shape, bool)
    corner[2:5, 34:38, 4:10] = np.random.default_rng(0).random((3, 4, 6)) < 0.5  # nothing that packs well
    desk.paint("corner", corner)
    desk.tuned()
    kept = strokes_in(desk.own_prompts())
    assert (kept["corner"] == corner).all() and all((kept[name] == before[name]).all() for name in before)
    path, other = tmp_path / "mine.safetensors", tmp_path / "other.safetensors"
    desk.session.prompts.save(desk.own_key(), path)
    beside = tmp_path / "mine.strokes.safetensors"
    assert beside.exists() and beside.name in desk.notice, desk.notice
    loaded = strokes_in(Prompts.load(path))
    assert all((loaded[name] == kept[name]).all() for name in kept)
    # Loaded into the scene and saved elsewhere, nothing is lost either.
    desk.session.prompts.load(path)
    key = next(row.key for row in desk.session.view().prompts if row.name == "mine")
    desk.session.prompts.save(key, other)
    assert all((mask == kept[name]).all() for name, mask in strokes_in(Prompts.load(other)).items())
    monkeypatch.undo()
    desk.session.prompts.save(key, other)  # with room for all, none lies beside any more
    assert not other.with_name("other.strokes.safetensors").exists() and "beside" not in desk.notice
