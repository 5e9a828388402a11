"""What happens to nodes while a job runs or its result waits: nothing is lost, and the next job works."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer")

from harness.mrml_fixtures import add_volume, box_in, content, run
from harness.scene_files import load_scene, save_scene
from harness.scene_nodes import segments_by_name
from harness.session_harness import Desk, rename, shows_tuned
from harness.tiny_model import CLASSES
from PromptSegLib.prompts.store import Prompts
from PromptSegLib.scene import node_references, segment_tags
from PromptSegLib.scene.roles import set_role
from PromptSegLib.scene.slice_views import kept_classes


def test_a_result_waits_while_another_volume_is_looked_at(desk):
    desk.tune()
    other, before = desk.another_volume(), content(desk.segmentation)
    desk.session.inputs.choose_volume(other)
    assert not desk.session.view().preview and "waits with 'CT'" in desk.notice
    desk.session.inputs.choose_volume(desk.volume)
    assert desk.session.view().preview == "Result" and content(desk.segmentation) == before
    desk.apply()
    assert desk.mask("ball").any() and content(desk.segmentation) != before


def test_a_result_waits_while_another_segmentation_is_looked_at(desk):
    desk.tune()
    other = node_references.new_segmentation(desk.scene, desk.volume, "another")
    desk.session.inputs.choose_segmentation(other)
    assert not desk.session.view().preview
    desk.session.inputs.choose_segmentation(desk.segmentation)
    assert desk.session.view().preview == "Result"
    desk.session.discard()
    desk.session.inputs.choose_segmentation(other)
    desk.session.inputs.choose_segmentation(desk.segmentation)
    assert not desk.session.view().preview  # what was discarded does not come back


def test_a_preview_waits_when_its_job_was_stopped(desk):
    other = desk.another_volume()
    desk.begin_long()
    desk.session.inputs.choose_volume(other)
    run(desk.session)
    desk.session.inputs.choose_volume(desk.volume)
    assert desk.session.view().preview == "Preview" and not desk.session.view().busy
    desk.apply()


@pytest.mark.parametrize("which", ["volume", "segmentation"])
def test_what_waits_goes_with_its_nodes(desk, which):
    desk.tune()
    other = desk.another_volume()
    desk.session.inputs.choose_volume(other)
    desk.scene.RemoveNode(getattr(desk, which))
    assert not desk.session.results._parked
    desk.session.inputs.choose_volume(None)
    assert not desk.session.view().preview


def test_renamed_while_it_runs(desk, tmp_path):
    desk.begin_long(shows_tuned)
    rename(desk, "ball", "sphere")
    desk.session.apply()
    run(desk.session)
    assert "Applied sphere, rod." in desk.notice and sorted(desk.own_prompts().names) == ["rod", "sphere"]
    rename(desk, "rod", "stick")  # and after it was applied
    desk.session.prompts.save(desk.own_key(), tmp_path / "a.safetensors")
    assert sorted(Prompts.load(tmp_path / "a.safetensors").names) == ["sphere", "stick"]
    desk.tune()
    assert set(desk.last_job.values["classes"]) == {"sphere", "stick"}


def test_where_to_look_next_knows_the_new_names(desk):
    desk.session.tune()
    rename(desk, "ball", "sphere")
    rename(desk, "rod", "stick")
    run(desk.session)
    assert kept_classes(desk.volume) and set(kept_classes(desk.volume)) <= {"sphere", "stick"}
    desk.session.uncertainty.look_next()
    told = desk.session.view().look.partition(": ")[2]
    rename(desk, told, "renamed since")
    assert desk.session.view().look.endswith(": renamed since")


def test_names_that_were_exchanged_while_it_ran(desk):
    desk.begin_long(shows_tuned)
    ball, rod = desk.id_of("ball"), desk.id_of("rod")
    for segment_id, name in ((ball, "rod"), (rod, "ball")):
        desk.segmentation.GetSegmentation().GetSegment(segment_id).SetName(name)
    desk.session.apply()
    run(desk.session)
    assert sorted(desk.own_prompts().names) == ["ball", "rod"]
    assert (
        segment_tags.tag(desk.segmentation, ball, "Class") == "rod"
        and segment_tags.tag(desk.segmentation, rod, "Class") == "ball"
    )


@pytest.mark.parametrize("name", ["", "rod", "two\nlines"])
def test_a_name_that_no_class_can_have_waits(desk, name):
    desk.begin_long(shows_tuned)
    ball = desk.id_of("ball")
    desk.segmentation.GetSegmentation().GetSegment(ball).SetName(name)
    desk.session.apply()
    run(desk.session)
    assert desk.level == "info" and sorted(desk.own_prompts().names) == ["ball", "rod"]


@pytest.mark.parametrize("how", ["deleted", "background", "ignore", "locked"])
def test_a_segment_that_goes_or_gets_another_role(desk, how):
    desk.begin_long(shows_tuned)
    ball, rest = desk.id_of("ball"), desk.mask("background")
    before = desk.mask("ball")
    if how == "deleted":
        desk.segmentation.GetSegmentation().RemoveSegment(ball)
    else:
        set_role(desk.segmentation, ball, how)
    desk.session.apply()
    run(desk.session)
    assert np.array_equal(desk.mask("background"), rest)
    assert ("ball" in segments_by_name(desk.segmentation)) == (how != "deleted")
    assert "left out" in desk.notice and "ball" in desk.notice
    assert how == "deleted" or np.array_equal(desk.mask("ball"), before)
    desk.session.tune()
    run(desk.session)
    assert desk.session.view().preview == "Result", desk.notice


@pytest.mark.parametrize("mode", ["add", "erase"])
def test_a_correction_of_a_class_that_is_not_written_stays_one(desk, mode):
    desk.tuned()
    desk.paint("ball", box_in(desk.mask("ball")), "erase")
    desk.tune()
    assert desk.last_job.values["wanted"] == ["ball"]
    where, rod = box_in(desk.mask("rod")), desk.mask("rod")
    if mode == "add":
        where[3:5, 20:24, 40:44] = True
        where &= ~rod & ~desk.mask("ball") & ~desk.mask("background")
    desk.paint("rod", where, mode)
    desk.apply()
    desk.tune()
    said, strokes = desk.last_job.said(), (desk.strokes == CLASSES["rod"]).sum()
    assert desk.last_job.values["wanted"] == ["rod"]
    assert where.any() and (
        said["rod"].sum() == strokes + where.sum() if mode == "add" else said["not rod"].sum() == where.sum()
    )


def test_where_to_look_is_there_when_the_scene_is_opened_again(desk, tmp_path):
    desk.tuned()
    look = desk.session.view().look
    save_scene(desk.scene, tmp_path / "Smith & Jones.mrb")
    opened = load_scene(tmp_path / "Smith & Jones.mrb")
    session = desk.new_session(opened)
    session.inputs.choose_volume(opened.GetFirstNodeByName("CT"))
    view = session.view()
    assert view.look == look and not view.reasons["look"] and not view.reasons["map"]
    session.uncertainty.look_next()
    session.uncertainty.show_map(True)
    assert session.view().notice.level == "info" and session.view().map_shown
    assert opened.GetFirstNodeByName("CT uncertainty (PromptSeg)") is not None
    session.uncertainty.show_map(False)


@pytest.mark.parametrize("text", ["", "x", "[1]", "[[1, 2]]", "{}", "[[NaN, 1, 2]]"])
def test_places_that_are_damaged_are_none(blank_desk, text):
    desk: Desk = blank_desk
    other, _ = add_volume(desk.scene, "Other")
    other.SetAttribute("PromptSeg.Places", text)
    other.SetAttribute("PromptSeg.Uncertainty", text or "y")
    desk.session.inputs.choose_volume(other)
    assert desk.session.view().reasons["look"]
    desk.session.uncertainty.show_map(True)
    assert desk.level == "error" and not desk.session.view().map_shown
