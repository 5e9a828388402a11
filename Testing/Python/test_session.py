"""The session with real nodes, a real worker and a tiny backbone: what a user does, and what may go wrong meanwhile."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("slicer")

from harness.mrml_fixtures import (
    box_in,
    content,
    nodes_of,
    paint_strokes,
    put_under,
    run,
)
from harness.mrml_volumes import rotation
from harness.scene_files import load_scene, save_scene
from harness.session_harness import BRIEF, LONG, MOMENTS, TURNED, Desk, group_of, reported
from harness.tiny_model import CLASSES
from PromptSegLib.annotation.classes import ClassInfo
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.inference.result import Segmentation
from PromptSegLib.prompts.store import Prompts
from PromptSegLib.scene import node_references
from PromptSegLib.scene.roles import set_role
from PromptSegLib.scene.segmentations import apply_result, segments

# The whole life


def test_from_the_first_stroke_to_the_next_day(oblique_desk, tmp_path):
    desk = oblique_desk
    session, segmentation = desk.session, desk.segmentation
    assert segmentation.GetTransformNodeID() == desk.volume.GetTransformNodeID()
    put_under(desk.scene, segmentation, TURNED)
    paint_strokes(segmentation, desk.volume, desk.reference)
    assert not session.view().reasons["tune"] and session.view().tune_text == "Tune prompts"
    colors = {each.name: each.color for each in segments(segmentation)}

    seen = []
    session.actions.on_change(lambda: seen.append((session.view().preview, session.view().tune_text)))
    before = content(segmentation)
    session.tune()
    assert session.view().busy and session.view().tune_text == "Cancel"
    run(session)
    assert ("Preview", "Cancel") in seen and session.view().preview == "Result"
    assert content(segmentation) == before
    assert not session.view().busy

    desk.apply()
    masks = {name: desk.mask(name) for name in CLASSES}
    for name, value in CLASSES.items():
        assert masks[name][desk.strokes == value].all()
        assert not masks[name][(desk.strokes > 0) & (desk.strokes != value)].any()
        assert masks[name].sum() > 3 * (desk.strokes == value).sum()
    assert {each.name: each.color for each in segments(segmentation)} == colors
    assert session.view().tune_text == "Retune" and not session.view().preview

    # Correct, and add a class.
    erased = box_in(masks["ball"])
    added = np.zeros_like(erased)
    added[15:18, 4:8, 40:46] = True
    assert not (added & (masks["ball"] | masks["rod"])).any()
    desk.paint("ball", erased, "erase")
    desk.paint("rod", added)
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {"ball", "rod"}
    desk.apply()
    assert not desk.mask("ball")[erased].any()
    assert desk.mask("rod")[added].all()
    older = {name: (desk.mask(name), group_of(desk.own_prompts(), name)) for name in CLASSES}
    corner = np.zeros_like(erased)
    corner[2:5, 34:38, 4:10] = True
    desk.paint("corner", corner)
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {"corner"}
    desk.apply()
    assert desk.mask("corner")[corner].all()
    for name, (mask, tensors) in older.items():
        assert np.array_equal(desk.mask(name), mask)
        assert group_of(desk.own_prompts(), name) == tensors

    # Undo what the last step did, and again bring it back.
    applied = content(segmentation)
    session.history.undo()
    assert set(desk.own_prompts().names) == set(CLASSES)
    session.history.redo()
    assert content(segmentation) == applied and set(desk.own_prompts().names) == {*CLASSES, "corner"}
    prompts = desk.own_prompts().to_bytes()
    save_scene(desk.scene, tmp_path / "case.mrb")
    session.close()

    # The next day.
    scene = load_scene(tmp_path / "case.mrb")
    desk.scene, desk.session = scene, desk.new_session(scene)
    desk.volume = scene.GetFirstNodeByName("CT")
    desk.session.inputs.choose_volume(desk.volume)
    desk.segmentation = desk.session.parameters.segmentation
    assert desk.segmentation is not None and desk.session.inputs.ensure_segmentation() is desk.segmentation
    assert desk.session.view().tune_text == "Retune" and not desk.session.view().preview
    assert desk.own_prompts().to_bytes() == prompts
    # What was applied lay on a lattice of its own; a saved segmentation is brought onto one.
    again = box_in(desk.mask("rod"))
    desk.paint("rod", again, "erase")
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {"rod"} and "start" in desk.last_job.arrays
    said = desk.last_job.said()
    assert said["not rod"].sum() == again.sum()
    assert "not ball" in said and said["ball"].any()  # earlier corrections and strokes of what was tuned together
    before = content(desk.segmentation)
    desk.session.discard()
    assert not desk.session.view().preview and content(desk.segmentation) == before
    desk.tune()
    desk.apply()
    assert not desk.mask("rod")[again].any()


# Retuning


def test_a_retuning_goes_on_with_what_was_corrected_and_takes_a_third(desk):
    desk.tune()
    first = desk.last_job
    assert first.values["settings"]["seconds"] == BRIEF and "start" not in first.arrays
    desk.apply()
    erased = box_in(desk.mask("ball"))
    desk.paint("ball", erased, "erase")
    desk.tune()
    again = desk.last_job
    assert again.values["settings"]["seconds"] == pytest.approx(BRIEF / 3)
    # What was tuned together stays together, but only the corrected segment gets a result.
    assert again.values["classes"] == first.values["classes"] and not again.values["others"]
    said = again.said()
    assert said["not ball"].sum() == erased.sum() and said["rod"].sum() == (desk.strokes == CLASSES["rod"]).sum()
    kept = desk.mask("rod")
    desk.apply()
    assert np.array_equal(desk.mask("rod"), kept) and not (desk.mask("ball") & erased).any()
    assert group_of(desk.own_prompts(), "rod") == group_of(desk.own_prompts(), "ball")


def test_retuning_without_a_correction_tunes_all_again(desk):
    desk.tuned()
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == set(CLASSES)
    said = desk.last_job.said()
    assert not [name for name in said if name.startswith("not")]
    for name, value in CLASSES.items():
        assert said[name].sum() == (desk.strokes == value).sum()


def test_a_correction_right_after_apply_counts(desk):
    """Apply remembers in a thread; nobody has to wait for it."""
    desk.tune()
    desk.session.apply()
    erased = box_in(desk.mask("ball"))
    desk.paint("ball", erased, "erase")
    desk.tune()
    assert "start" in desk.last_job.arrays
    assert desk.last_job.said()["not ball"].sum() == erased.sum()


def test_closing_right_after_apply_loses_nothing(desk):
    desk.tune()
    desk.session.apply()
    desk.session.close()
    desk.session = desk.new_session(desk.scene)
    desk.session.inputs.choose_volume(desk.volume)
    desk.paint("ball", box_in(desk.mask("ball")), "erase")
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {"ball"} and "start" in desk.last_job.arrays


@pytest.mark.parametrize("nodes", ["both", "segmentation"])
def test_corrections_are_recognized_after_a_transform_was_changed(desk, nodes):
    put_under(desk.scene, desk.segmentation, np.eye(4))
    if nodes == "both":
        desk.volume.SetAndObserveTransformNodeID(desk.segmentation.GetTransformNodeID())
    desk.tuned()
    moved = np.eye(4)
    moved[:3, :3], moved[:3, 3] = rotation(0, 0, 4), (3.0, -1.0, 2.0)
    put_under(desk.scene, desk.segmentation, moved)  # another transform node
    if nodes == "both":
        desk.volume.SetAndObserveTransformNodeID(desk.segmentation.GetTransformNodeID())
    # On the segment's own voxels, as a user erases.
    grid, erased = erase_on_its_own_voxels(desk, "ball")
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {"ball"}
    assert desk.last_job.said()["not ball"].sum() == erased


def erase_on_its_own_voxels(desk: Desk, name: str) -> tuple[Grid, int]:
    from PromptSegLib.scene.segment_snapshot import snapshot

    segment_id = desk.id_of(name)
    image = snapshot(desk.segmentation, desk.volume, [segment_id]).labels({segment_id: 1})
    array = sitk.GetArrayFromImage(image)
    box = box_in(array == 1)
    array[box] = 0
    result = Segmentation(Grid.of(image).image(array), (ClassInfo(name, 1, (1.0, 0.0, 0.0)),))
    apply_result(desk.segmentation, desk.volume, result, segment_ids={name: segment_id})
    return Grid.of(image), int(box.sum())


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hardened_transform_is_no_correction(desk, when):
    if when == "after":
        desk.tuned()
    put_under(desk.scene, desk.segmentation, TURNED)
    put_under(desk.scene, desk.volume, TURNED)
    if when == "before":
        desk.tuned()
    desk.segmentation.HardenTransform()
    desk.volume.HardenTransform()
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == set(CLASSES)  # as when nothing was corrected
    assert not [name for name in desk.last_job.said() if name.startswith("not")]


def test_a_new_class_does_not_inherit_from_a_deleted_one(desk):
    desk.tuned()
    rod = desk.mask("rod")
    desk.segmentation.GetSegmentation().RemoveSegment(desk.id_of("rod"))
    corner = np.zeros_like(rod)
    corner[2:5, 34:38, 4:10] = True
    desk.paint("corner", corner)
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {"corner"}
    said = desk.last_job.said()
    assert said["corner"].sum() == corner.sum()
    assert "not corner" not in said


def test_a_copy_of_a_segment_is_a_class_of_its_own(desk):
    """Slicer copies a segment with its tags."""
    desk.tuned()
    segmentation, ball = desk.segmentation.GetSegmentation(), desk.id_of("ball")
    copy = type(segmentation.GetSegment(ball))()
    copy.DeepCopy(segmentation.GetSegment(ball))
    copy.SetName("copy")
    segmentation.AddSegment(copy)
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {"copy"}
    start = Prompts.from_bytes(desk.last_job.arrays["start"].tobytes())
    assert set(start.names) == {"ball", "rod"}


def test_a_segment_with_the_name_of_a_deleted_one(desk):
    desk.tuned()
    desk.segmentation.GetSegmentation().RemoveSegment(desk.id_of("rod"))
    desk.segment("ball").SetName("rod")
    desk.paint("rod", box_in(desk.mask("rod")), "erase")
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {"rod"}


def test_strokes_painted_while_it_runs_are_not_lost(desk):
    late = np.zeros(desk.strokes.shape, bool)
    late[16:19, 2:6, 2:8] = True
    desk.begin_long()
    desk.paint("ball", late)
    early = (desk.strokes == CLASSES["rod"]) & (np.arange(len(late)) == 10)[:, None, None]
    desk.paint("rod", early, "erase")
    desk.session.apply()
    run(desk.session)
    assert desk.mask("ball")[late].all()
    assert not desk.mask("rod")[early].any()
    desk.tune()
    said = desk.last_job.said()
    assert said["ball"].sum() == (desk.strokes == CLASSES["ball"]).sum() + late.sum()
    assert said["not rod"].sum() == early.sum()


@pytest.mark.parametrize("unpainted", ["slices", "volume"])
def test_what_is_not_painted_may_be_background(desk, unpainted):
    desk.session.parameters.unpainted = unpainted
    desk.tune()
    example, said = desk.last_job.values["examples"][0], desk.last_job.said()
    assert example["complete"] == (unpainted == "volume")
    total = sum(mask.sum() for mask in said.values())
    slices = 3 if unpainted == "slices" else len(desk.strokes)
    assert total == slices * desk.strokes[0].size
    desk.apply()
    assert desk.mask("ball").any()


def test_the_parts_of_a_class_that_is_ignored_are_unknown(desk):
    set_role(desk.segmentation, desk.id_of("rod"), "ignore")
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {"ball"} and not desk.last_job.values["others"]
    assert set(desk.last_job.said()) == {"ball", "background"}
    before = desk.mask("rod")
    desk.apply()
    assert np.array_equal(desk.mask("rod"), before)


# Cancel, apply early, discard


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_cancel_leaves_the_scene_as_it_was(desk, moment):
    before = desk.state()
    desk.begin_long(moment)
    assert desk.session.view().busy
    desk.session.cancel()
    view = desk.session.view()
    assert not view.busy and not view.preview and view.notice.text.startswith("Cancelled")
    assert desk.state() == before
    run(desk.session)
    assert desk.state() == before and desk.session.view().notice.text.startswith("Cancelled")
    desk.tuned()


def test_cancelled_and_started_again_at_once(desk):
    for _ in range(3):
        desk.begin_long(lambda session: True)
        desk.session.cancel()
    desk.tuned()


def test_cancel_of_a_retuning_keeps_what_was_applied(desk):
    desk.tuned()
    desk.paint("ball", box_in(desk.mask("ball")), "erase")
    before, prompts = desk.state(), desk.own_prompts().to_bytes()
    desk.begin_long()
    desk.session.cancel()
    run(desk.session)
    assert desk.state() == before and desk.own_prompts().to_bytes() == prompts
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {"ball"}


def test_apply_while_it_still_improves_ends_the_tuning(desk):
    desk.begin_long()
    assert desk.session.view().preview == "Preview"
    desk.apply()
    view = desk.session.view()
    assert not view.busy and not view.preview and view.tune_text == "Retune"
    for name, value in CLASSES.items():
        assert desk.mask(name)[desk.strokes == value].all()
    desk.paint("ball", box_in(desk.mask("ball")), "erase")
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {"ball"} and "start" in desk.last_job.arrays


def test_a_first_look_can_be_applied(desk):
    """It comes before anything is tuned: there are no prompts to go on from yet."""
    desk.begin_long(MOMENTS["preview"])
    desk.apply()
    assert desk.session.view().tune_text == "Tune prompts"
    for name, value in CLASSES.items():
        assert desk.mask(name)[desk.strokes == value].all()
    erased = box_in(desk.mask("ball"))
    desk.paint("ball", erased, "erase")
    desk.tuned()
    assert set(desk.last_job.values["wanted"]) == set(CLASSES)
    assert desk.last_job.said()["not ball"].sum() == erased.sum()
    assert not desk.mask("ball")[erased].any() and set(desk.own_prompts().names) == set(CLASSES)


def test_discard_while_it_still_improves(desk):
    before = desk.state()
    desk.begin_long()
    desk.session.discard()
    run(desk.session)
    assert desk.state() == before and not desk.session.view().preview and not desk.session.view().busy


def test_a_new_tuning_takes_the_preview_away(desk):
    desk.tune()
    desk.session.parameters.seconds = LONG
    desk.session.tune()
    assert not desk.session.view().preview
    desk.session.cancel()
    run(desk.session)
    assert not desk.session.view().preview and desk.session.view().reasons["apply"]


# Two jobs, and choices meanwhile


def test_two_jobs_at_once(desk):
    desk.tuned()
    key, before = desk.own_key(), desk.state()
    desk.begin_long(reported)
    sent = len(desk.workers.jobs)
    for second in (desk.session.tune, lambda: desk.session.segment(key), desk.session.history.undo):
        second()
        assert desk.level == "error" and "cancel" in desk.notice.lower()
        assert desk.session.view().busy and len(desk.workers.jobs) == sent
    run(desk.session, until=lambda session: session.view().preview != "")  # the first one goes on
    desk.session.cancel()
    run(desk.session)
    assert desk.state() == before


def test_another_volume_stops_the_job(desk):
    other = desk.another_volume()
    before = desk.state()
    desk.begin_long()
    desk.session.inputs.choose_volume(other)
    run(desk.session)
    assert not desk.session.view().preview and desk.state() == before
    assert desk.session.parameters.segmentation is node_references.remembered(other)
    desk.session.inputs.choose_volume(desk.volume)
    assert desk.session.parameters.segmentation is desk.segmentation


def test_a_volume_without_a_segmentation_gets_its_own(desk):
    """Not that of the volume before: painting there would be lost to both."""
    other = desk.another_volume(paint_it=False)
    desk.session.inputs.choose_volume(other)
    own = desk.session.inputs.ensure_segmentation()
    assert own is not desk.segmentation and node_references.remembered(other) is own
    desk.session.inputs.choose_volume(desk.volume)
    assert desk.session.inputs.ensure_segmentation() is desk.segmentation


def test_the_preview_is_dressed_as_chosen(desk):
    desk.session.parameters.opacity = 0.3
    desk.tune()
    preview = next(node for node in nodes_of(desk.scene) if node[2] == "PromptSeg preview")
    display = desk.scene.GetNodeByID(preview[0]).GetDisplayNode()
    assert display.GetOpacity() == pytest.approx(0.3)
    desk.session.parameters.opacity, desk.session.parameters.show3D = 0.8, True
    desk.session.results.show_opacity()
    assert display.GetOpacity() == pytest.approx(0.8) and display.GetVisibility3D()
