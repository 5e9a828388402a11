"""What the session does with results: where to look next, clean-up, undo and redo."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("slicer")

import SimpleITK as sitk

from harness import brisk
from harness.editor_history import Editor, Shown
from harness.mrml_fixtures import (
    box_in,
    content,
    mask_of,
    nodes_of,
    paint,
    put_under,
    run,
)
from harness.mrml_segments import add_views
from harness.scene_files import load_scene, save_scene
from harness.scene_nodes import image_from_volume, segments_by_name
from harness.session_harness import LONG, TURNED, Desk, reported
from harness.tiny_model import CLASSES
from PromptSegLib.annotation.classes import describe
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.inference.result import Segmentation
from PromptSegLib.scene import node_references, scene_nodes, slice_views, stored_results
from PromptSegLib.scene.placement import to_array, volume_to_world
from PromptSegLib.session import answers, applied, engine
from PromptSegLib.session.session import Session
from PromptSegLib.worker.client import Event, Worker
from PromptSegLib.worker.contract import Reply
from PromptSegLib.worker.launch import environment

# Where to look


def test_where_to_look_and_the_map(desk):
    views = add_views(desk.scene)
    assert desk.session.view().reasons["look"] and desk.session.view().reasons["map"]
    desk.session.uncertainty.look_next()
    assert desk.level == "error"
    desk.session.uncertainty.show_map(True)
    assert not desk.session.view().map_shown
    desk.tune()
    nodes = nodes_of(desk.scene)
    assert desk.session.view().look and not desk.session.view().reasons["look"]
    seen = set()
    for _ in range(3):
        desk.session.uncertainty.look_next()
        seen.add(tuple(to_array(views[0][0].GetSliceToRAS())[:3, 3]))
    grid = Grid.of(image_from_volume(desk.volume))
    z = [point[2] for point in seen]
    assert len(seen) > 1 and all(grid.corners().min(0)[2] <= each <= grid.corners().max(0)[2] for each in z)

    desk.session.uncertainty.show_map(True)
    shown = [node for node in nodes_of(desk.scene) if "uncertainty" in node[2]]
    assert desk.session.view().map_shown and len([node for node in shown if "ScalarVolume" in node[0]]) >= 1
    assert all(composite.GetForegroundVolumeID() == shown[0][0] for _, composite in views)
    desk.apply()
    desk.tune()
    desk.session.uncertainty.show_map(False)
    assert not [node for node in nodes_of(desk.scene) if "uncertainty" in node[2]]
    assert not any(composite.GetForegroundVolumeID() for _, composite in views)
    assert desk.session.view().preview and nodes


@pytest.mark.parametrize("hardened", [False, True])
def test_the_map_lies_where_the_volume_was_moved_to(blank_desk, hardened):
    desk: Desk = blank_desk
    doubt = sitk.Cast(desk.reference, sitk.sitkUInt8)
    desk.session.uncertainty.remember(desk.volume, (doubt.TransformIndexToPhysicalPoint((14, 12, 10)),), doubt)
    put_under(desk.scene, desk.volume, TURNED)
    if hardened:
        desk.volume.HardenTransform()
    desk.session.uncertainty.show_map(True)
    shown = desk.scene.GetFirstNodeByName("CT uncertainty (PromptSeg)")
    assert np.allclose(volume_to_world(shown), volume_to_world(desk.volume), atol=1e-6)


@pytest.mark.parametrize("how", ["discard", "cancel"])
def test_where_to_look_is_as_before_when_a_result_comes_to_nothing(desk, how):
    def comes_to_nothing():
        desk.tune()
        assert slice_views.kept(desk.volume) != before
        if how == "cancel":
            desk.begin_long()
        getattr(desk.session, how)()
        run(desk.session)

    before = slice_views.kept(desk.volume)
    comes_to_nothing()
    assert slice_views.kept(desk.volume) == before and desk.session.view().reasons["look"]
    desk.tuned()
    desk.session.uncertainty.show_map(True)
    before, look = slice_views.kept(desk.volume), desk.session.view().look
    desk.paint("ball", box_in(desk.mask("ball")), "erase")
    comes_to_nothing()
    assert slice_views.kept(desk.volume) == before and all(before.values())
    assert desk.session.view().look == look and desk.session.view().map_shown


def test_what_is_remembered_goes_with_its_segmentation(desk):
    before = nodes_of(desk.scene)
    desk.tuned()
    assert stored_results.read_memory(desk.segmentation).images
    desk.scene.RemoveNode(desk.segmentation)
    assert {each for each in nodes_of(desk.scene) if each not in before} == {
        each for each in nodes_of(desk.scene) if "vtkMRMLText" in each[1]
    }


def test_the_map_goes_with_its_volume(desk):
    desk.tune()
    desk.session.uncertainty.show_map(True)
    scene_nodes.remove(desk.volume)
    assert not desk.session.view().map_shown and desk.session.view().reasons["map"]
    assert not [node for node in nodes_of(desk.scene) if "uncertainty" in node[2]]
    desk.session.uncertainty.show_map(True)
    assert desk.level == "error"


# Clean-up


def test_clean_up_of_the_result(desk):
    desk.tune()
    plain = preview_mask(desk, "ball")
    desk.session.parameters.smoothing = 2.0
    desk.session.results.clean_up()
    run(desk.session)
    smooth = preview_mask(desk, "ball")
    assert desk.session.view().preview == "Result" and not np.array_equal(smooth, plain)
    assert smooth[desk.strokes == CLASSES["ball"]].all()
    desk.session.parameters.smoothing = 0.0
    desk.session.results.clean_up()
    run(desk.session)
    assert np.array_equal(preview_mask(desk, "ball"), plain)
    desk.session.parameters.largestComponent = desk.session.parameters.fillHoles = True
    desk.tune()
    shown = preview_mask(desk, "ball")
    desk.apply()
    assert np.array_equal(desk.mask("ball"), shown)


def preview_mask(desk: Desk, name: str) -> np.ndarray:
    preview = next(node for node in nodes_of(desk.scene) if node[2] == "PromptSeg preview")
    return mask_of(desk.scene.GetNodeByID(preview[0]), desk.volume, name)


@pytest.mark.parametrize("how", ["erased", "background"])
def test_filling_holes_respects_the_user(desk, how):
    if how == "erased":  # what is left must enclose it, as learned growing lets it
        desk.session = desk.new_session(desk.scene, lambda parameters: Worker(brisk.command, environment(1)))
        desk.session.inputs.choose_volume(desk.volume)
    desk.session.parameters.fillHoles = True
    inside = np.zeros(desk.strokes.shape, bool)
    inside[9:12, 11:13, 18:20] = True
    around = np.zeros_like(inside)
    around[7:14, 9:15, 16:22] = True
    if how == "erased":
        desk.tuned()
        desk.paint("ball", around)
        desk.tuned()
        desk.paint("ball", inside, "erase")
    else:
        desk.paint("ball", around & ~inside)
        desk.paint("background", inside)
    desk.tune()
    assert not preview_mask(desk, "ball")[inside].any()
    assert preview_mask(desk, "ball")[around & ~inside].all()


def cleaning(session: Session) -> bool:
    """The job is done, and a thread cleans its result."""
    return not session.view().busy and session.busy


@pytest.mark.parametrize("what", ["discard", "tune", "delete", "close"])
def test_while_a_result_is_cleaned(desk, what):
    desk.session.parameters.smoothing = 1.0
    before = content(desk.segmentation)
    desk.session.tune()
    run(desk.session, until=cleaning)
    if what == "discard":
        desk.session.discard()
    elif what == "tune":
        desk.session.parameters.seconds = LONG
        desk.session.tune()
        run(desk.session, until=reported)
        assert desk.session.view().preview != "Result"
        desk.session.cancel()
    elif what == "delete":
        scene_nodes.remove(desk.segmentation)
    else:
        desk.scene.Clear(0)
    run(desk.session)
    assert not desk.session.view().preview
    assert not [node for node in nodes_of(desk.scene) if "preview" in node[2]]
    if what in ("discard", "tune"):
        assert content(desk.segmentation) == before


# Undo


def test_undo_and_redo_of_results(desk):
    strokes = content(desk.segmentation)
    assert desk.session.view().reasons["undo"] and desk.session.view().reasons["redo"]
    desk.tuned()
    first, prompts = content(desk.segmentation), desk.own_prompts().to_bytes()
    erased = box_in(desk.mask("ball"))
    desk.paint("ball", erased, "erase")
    corrected = content(desk.segmentation)
    desk.tuned()
    second, later = content(desk.segmentation), desk.own_prompts().to_bytes()
    assert prompts != later

    desk.session.history.undo()
    assert content(desk.segmentation) == corrected != first
    assert desk.own_prompts().to_bytes() == prompts
    desk.session.history.undo()
    assert content(desk.segmentation) == strokes and desk.session.view().tune_text == "Tune prompts"
    assert desk.session.view().reasons["undo"] and not desk.session.view().reasons["redo"]
    desk.session.history.redo()
    desk.session.history.redo()
    assert content(desk.segmentation) == second and desk.own_prompts().to_bytes() == later
    assert desk.session.view().tune_text == "Retune"


@pytest.mark.parametrize("moment", ["waiting", "running"])
def test_a_preview_goes_with_the_result_that_it_improves(desk, moment):
    desk.tuned()
    desk.paint("ball", box_in(desk.mask("ball")), "erase")
    if moment == "waiting":
        desk.tune()
        desk.session.history.undo()
    else:
        desk.session.history.segmentation_changed()  # as the panel says after Apply
        desk.begin_long()
        desk.session.history.of(desk.segmentation).undo()  # by the editor's own button
        desk.session.history.segmentation_changed()
    run(desk.session)
    assert not desk.session.view().preview and not desk.session.view().busy
    assert "tune again" in desk.notice and desk.session.view().reasons["apply"]


def test_a_preview_stays_when_a_stroke_is_undone(desk):
    desk.tune()
    desk.session.history.segmentation_changed()
    assert desk.session.view().preview == "Result"


@pytest.mark.parametrize("how", ["transformed", "emptied"])
def test_a_volume_that_becomes_unusable_ends_its_job(desk, how):
    desk.begin_long()
    if how == "emptied":
        desk.volume.SetAndObserveImageData(None)
    else:
        node = desk.scene.AddNewNodeByClass("vtkMRMLGridTransformNode")
        desk.volume.SetAndObserveTransformNodeID(node.GetID())
    run(desk.session)
    assert not desk.session.view().busy and desk.level == "error"


def test_a_segment_that_was_copied_brings_nothing_of_its_memory(desk):
    desk.tuned()
    other = desk.another_volume()
    there = node_references.remembered(other)
    there.GetSegmentation().RemoveSegment(segments_by_name(there)["ball"])
    there.GetSegmentation().CopySegmentFromSegmentation(desk.segmentation.GetSegmentation(), desk.id_of("ball"))
    desk.session.inputs.choose_volume(other)
    assert desk.session.view().tune_text == "Tune prompts"
    desk.tune()
    assert "start" not in desk.last_job.arrays
    assert set(desk.last_job.said()) == {"ball", "rod", "background"}


def test_what_was_undone_says_nothing(desk):
    desk.tuned()
    desk.session.history.undo()
    desk.tune()
    job = desk.last_job
    assert "start" not in job.arrays and set(job.values["classes"]) == set(CLASSES)
    said = job.said()
    assert set(said) == {*CLASSES, "background"}
    for name, value in CLASSES.items():
        assert said[name].sum() == (desk.strokes == value).sum()


def test_corrections_are_those_of_the_step_that_is_there(desk):
    desk.tuned()
    first = desk.mask("ball")
    one, two = box_in(first, 1), box_in(first & (np.arange(first.shape[2]) > 16), 1)
    desk.paint("ball", one, "erase")
    desk.tuned()
    desk.session.history.undo()  # back to the first result with a correction
    desk.paint("ball", two & ~one, "erase")
    desk.tune()
    assert desk.last_job.said()["not ball"].sum() == (one | two).sum()
    desk.session.discard()
    desk.session.history.undo()
    desk.session.history.redo()
    assert desk.session.view().tune_text == "Retune"


def test_undo_right_after_apply_and_redo(desk):
    """Before the thread has remembered what was applied."""
    before = content(desk.segmentation)
    desk.tune()
    desk.session.apply()
    desk.session.history.undo()
    assert content(desk.segmentation) == before
    desk.session.history.redo()
    run(desk.session)
    desk.paint("ball", box_in(desk.mask("ball")), "erase")
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {"ball"} and "start" in desk.last_job.arrays


def test_results_of_other_volumes_take_no_undo(desk, monkeypatch):
    monkeypatch.setattr(applied, "_KEPT", 2)
    monkeypatch.setattr(applied, "_KEPT_IN_ALL", 3, raising=False)
    desk.tuned()
    erased = box_in(desk.mask("ball"))
    desk.paint("ball", erased, "erase")
    desk.tuned()
    others = [desk.another_volume(f"Other {n}", paint_it=False) for n in range(3)]
    desk.session.segment(desk.own_key(), others)
    run(desk.session)
    assert len(desk.session.results.applied._results) <= 3
    desk.session.history.undo()
    desk.tune()
    assert desk.last_job.values["wanted"] == ["ball"] and desk.last_job.said()["not ball"].sum() == erased.sum()
    # What is no longer remembered of the first of them is in the scene.
    desk.session.discard()
    desk.session.inputs.choose_volume(others[0])
    there = node_references.remembered(others[0])
    erased = box_in(mask_of(there, others[0], "rod"))
    paint(there, others[0], erased.astype(np.uint8), {"rod": 1}, "erase")
    desk.tune()
    assert desk.last_job.values["wanted"] == ["rod"] and desk.last_job.said()["not rod"].sum() == erased.sum()


def test_undone_then_saved_and_reopened(desk, tmp_path):
    desk.tuned()
    erased = box_in(desk.mask("ball"))
    desk.paint("ball", erased, "erase")
    desk.tuned()
    desk.session.history.undo()  # to the first result, corrected
    save_scene(desk.scene, tmp_path / "undone.mrb")
    desk.session.close()
    desk.scene = load_scene(tmp_path / "undone.mrb")
    desk.volume = desk.scene.GetFirstNodeByName("CT")
    desk.session = desk.new_session(desk.scene)
    desk.session.inputs.choose_volume(desk.volume)
    desk.segmentation = desk.session.parameters.segmentation
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {"ball"}
    assert desk.last_job.said()["not ball"].sum() == erased.sum()


def test_a_result_that_cannot_be_applied_leaves_nothing_to_undo(desk):
    desk.tune()
    segmentation = desk.segmentation.GetSegmentation()
    segmentation.CreateRepresentation("Closed surface")
    segmentation.SetSourceRepresentationName("Closed surface")
    desk.session.apply()
    run(desk.session)
    assert desk.level == "error" and "surface" in desk.notice
    assert desk.session.view().reasons["undo"]


def test_what_there_is_to_say_of_a_result_reaches_the_user(desk, monkeypatch):
    sentence = "Something is unusual about this image."
    image = Grid((4, 3, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)).image(np.ones((2, 3, 4), np.uint8))
    values, arrays = Reply(Segmentation(image, (describe("ball", 1),), notes=(sentence,))).pack()
    assert engine.reply_of(Event("done", 1, values, arrays)).result.notes == (sentence,)

    def said(event):
        reply = engine.reply_of(event)
        return replace(reply, result=replace(reply.result, notes=(sentence,)))

    monkeypatch.setattr(answers, "reply_of", said)
    desk.tune()
    assert desk.notice.endswith(f"Discard forgets it. {sentence}")


def test_undo_after_a_batch_wrote_into_another_segmentation(desk):
    editor = Editor()
    desk.session.history._make = lambda node: Shown(editor, node)
    editor.show(desk.segmentation)
    desk.tuned()
    key, other = desk.own_key(), desk.another_volume()
    there = node_references.remembered(other)
    strokes, applied = content(there), content(desk.segmentation)
    desk.session.segment(key, [other])
    run(desk.session)
    assert editor.node is desk.segmentation and editor.kept.can_undo  # nothing of the editor's is lost
    direct = content(there)
    assert direct != strokes

    def stroke(name, radius):
        editor.kept.save()  # as an effect does before it paints
        mask = mask_of(there, other, name)
        paint(there, other, box_in(mask, radius).astype(np.uint8), {name: 1}, "erase")
        desk.session.history.segmentation_changed()
        return content(there)

    desk.session.inputs.choose_volume(other)
    editor.show(there)  # as the panel does
    painted_on = [stroke("rod", 1), stroke("rod", 2)]
    states = [strokes, direct, *painted_on]
    for expected in states[-2::-1]:
        desk.session.history.undo()
        assert content(there) == expected
    assert desk.session.view().reasons["undo"]
    for expected in states[1:]:
        desk.session.history.redo()
        assert content(there) == expected
    desk.session.inputs.choose_volume(desk.volume)
    editor.show(desk.segmentation)
    assert content(desk.segmentation) == applied
    # Once more into the one that is not shown: its strokes are a step of their own.
    desk.session.segment(desk.own_key(), [other])
    run(desk.session)
    assert content(there) != states[-1]
    desk.session.inputs.choose_volume(other)
    editor.show(there)
    for expected in states[::-1]:
        desk.session.history.undo()
        assert content(there) == expected


def test_what_is_said_of_a_result_goes_when_the_editor_takes_it_back(desk):
    desk.tuned()
    assert "then Retune" in desk.notice
    desk.session.history.segmentation_changed()  # as the panel says after every change
    assert "then Retune" in desk.notice
    desk.session.history.of(desk.segmentation).undo()  # Ctrl+Z
    desk.session.history.segmentation_changed()
    assert not desk.notice and desk.session.view().tune_text == "Tune prompts"
    desk.session.history.of(desk.segmentation).redo()
    desk.session.history.segmentation_changed()
    assert not desk.notice and desk.session.view().tune_text == "Retune"
