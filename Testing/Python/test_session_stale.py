"""What is said is true: no sentence outlives what it is about, and names are those that segments have now."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer")

from harness.mrml_fixtures import mask_of, run
from harness.scene_files import load_scene, save_scene
from harness.scene_nodes import segments_by_name
from harness.session_harness import rename
from harness.tiny_model import CLASSES
from PromptSegLib.scene import node_references
from PromptSegLib.scene.segmentations import segments


def test_a_sentence_about_a_result_goes_with_it(desk):
    desk.tune()
    assert desk.notice.startswith("Done in ")
    desk.scene.RemoveNode(desk.segmentation)
    assert not desk.session.view().preview and not desk.notice


def test_a_sentence_about_a_volume_goes_when_another_is_chosen(desk):
    desk.tuned()
    assert desk.notice.startswith("Applied ball, rod.")
    desk.session.inputs.choose_volume(desk.another_volume())
    assert not desk.notice
    desk.session.discard()
    assert desk.level == "error"
    desk.session.inputs.choose_volume(desk.volume)
    assert not desk.notice


def test_an_error_goes_when_something_goes_well(desk):
    desk.session.segments.rename(desk.id_of("ball"), "rod")
    assert desk.level == "error" and "segment called rod already" in desk.notice
    desk.session.segments.rename(desk.id_of("ball"), "sphere")
    assert not desk.notice and "sphere" in segments_by_name(desk.segmentation)


def test_after_an_undo_of_any_kind_button_and_sentence_agree(desk):
    desk.tuned()
    assert "then Retune" in desk.notice and desk.session.view().tune_text == "Retune"
    desk.session.history.of(desk.segmentation).undo()  # the editor's own, which says nothing to the session
    desk.session.history.segmentation_changed()
    assert desk.session.view().tune_text == "Tune prompts" and "Retune" not in desk.notice
    desk.session.history.redo()
    assert desk.session.view().tune_text == "Retune" and not desk.notice
    desk.session.history.undo()
    assert desk.session.view().tune_text == "Tune prompts" and not desk.notice


def test_a_grown_result_has_a_button_and_a_sentence_that_agree(desk):
    desk.session.painted()
    run(desk.session)
    desk.apply()
    assert desk.notice.endswith("then Tune prompts.") and desk.session.view().tune_text == "Tune prompts"


def test_renames_reach_the_list_of_prompts_and_what_they_segment(desk):
    desk.tuned()
    before = desk.mask("ball")
    rename(desk, "ball", "sphere")
    (row,) = [row for row in desk.session.view().prompts if row.current]
    assert sorted(row.classes) == ["rod", "sphere"]
    desk.session.segment(row.key)
    run(desk.session)
    assert sorted(info.name for info in desk.session.results.shown.classes) == ["rod", "sphere"]
    desk.apply()
    assert "Applied " in desk.notice and "ball" not in desk.notice
    names = [each.name for each in segments(desk.segmentation)]
    assert sorted(names) == ["background", "rod", "sphere"]  # no second ball
    now = desk.mask("sphere")
    assert (now & before).sum() > 0.5 * before.sum()

    other = desk.another_volume(paint_it=False)
    desk.session.segment(row.key, [other])
    run(desk.session)
    assert "sphere" in segments_by_name(node_references.remembered(other))
    assert mask_of(node_references.remembered(other), other, "sphere").shape == now.shape


def test_a_rename_while_a_result_waits_reaches_what_is_said(desk):
    desk.tune()
    rename(desk, "ball", "sphere")
    desk.apply()
    assert desk.notice.startswith("Applied sphere, rod.")
    (row,) = [row for row in desk.session.view().prompts if row.current]
    assert sorted(row.classes) == ["rod", "sphere"]


def test_segmenting_says_which_volume(desk):
    desk.tuned()
    key, seen = desk.own_key(), []
    desk.session.segment(key)
    run(desk.session, until=lambda session: not seen.append(session.view().doing) and not session.busy)
    assert "Segmenting CT" in seen
    assert desk.notice.startswith("Segmented 'CT' in ") and "Apply" in desk.notice


def test_a_place_says_what_is_doubtful_there_also_in_a_scene_that_is_opened_again(desk, tmp_path):
    desk.tuned()
    desk.session.uncertainty.look_next()
    first = desk.session.view().look
    assert first.startswith("Place 1 of ") and first.partition(": ")[2] in CLASSES
    desk.session.uncertainty.look_back()
    assert desk.session.view().look.startswith("Place ") and desk.session.view().look != first
    desk.session.uncertainty.look_next()
    assert desk.session.view().look == first
    save_scene(desk.scene, tmp_path / "a.mrb")
    opened = load_scene(tmp_path / "a.mrb")
    session = desk.new_session(opened)
    session.inputs.choose_volume(opened.GetFirstNodeByName("CT"))
    session.uncertainty.look_next()
    assert session.view().look == first
    crosshair = opened.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    assert crosshair.GetCrosshairMode() != crosshair.NoCrosshair


@pytest.mark.parametrize("text", ["", "x", "{}", "[1, 2]", '["ball"]'])
def test_places_without_what_they_are_about_are_numbered(desk, text):
    desk.tuned()
    desk.volume.SetAttribute("PromptSeg.PlaceClasses", text)
    desk.session.inputs.choose_volume(desk.another_volume())
    desk.session.view()  # turns to the other volume
    desk.session.inputs.choose_volume(desk.volume)
    count = len(desk.session.uncertainty._points) if desk.session.view().look else 0
    if count > 1:
        desk.session.uncertainty.look_next()
        assert desk.session.view().look == f"Place 1 of {count}"


def test_what_is_shown_in_3d_is_in_the_middle_of_the_view(desk):
    camera = desk.scene.AddNewNodeByClass("vtkMRMLCameraNode")
    camera.SetPosition(0, 900, 0)
    desk.tune()
    desk.session.parameters.show3D = True
    desk.session.results.show_opacity()
    bounds = [0.0] * 6
    desk.session.results._preview.node.GetRASBounds(bounds)
    assert camera.GetFocalPoint() == pytest.approx((np.array(bounds[::2]) + bounds[1::2]) / 2)
    camera.SetFocalPoint(1, 2, 3)
    desk.session.results.show_opacity()  # the slider: the view stays as the user has turned it
    assert camera.GetFocalPoint() == (1, 2, 3)
    desk.session.parameters.show3D = False
    desk.session.results.show_opacity()
    desk.apply()
    assert not desk.segmentation.GetSegmentation().ContainsRepresentation("Closed surface")
    desk.session.parameters.show3D = True
    desk.session.results.show_opacity()
    assert desk.segmentation.GetSegmentation().ContainsRepresentation("Closed surface")
    assert camera.GetFocalPoint() != (1, 2, 3)
    display = desk.segmentation.GetDisplayNode()
    shown = {name: display.GetSegmentVisibility3D(desk.id_of(name)) for name in ("ball", "rod", "background")}
    assert display.GetVisibility3D() and shown == {"ball": True, "rod": True, "background": False}
