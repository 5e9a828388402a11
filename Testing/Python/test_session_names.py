"""Names that look the same, and segments that lie under each other: told, never passed over."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer")

from harness.mrml_fixtures import box_in, paint_strokes, run
from harness.scene_files import load_scene, save_scene
from harness.scene_nodes import segments_by_name
from harness.session_harness import Desk, rename
from harness.tiny_model import CLASSES
from PromptSegLib.scene import node_references
from PromptSegLib.scene.roles import set_role

PAIRS = {
    "composed": ("r\u00e9nal", "re\u0301nal"),
    "trailing blank": ("liver", "liver "),
    "leading blank": ("liver", " liver"),
    "no-break space": ("left kidney", "left\u00a0kidney"),
    "two blanks": ("left kidney", "left  kidney"),
    "zero width": ("liver", "li\u200bver"),
    "soft hyphen": ("gallbladder", "gall\u00adbladder"),
    "compatibility": ("\ufb01stula", "fistula"),
}


@pytest.mark.parametrize("names", PAIRS.values(), ids=PAIRS)
def test_two_segments_that_look_the_same_are_refused(desk, names):
    rename(desk, "ball", names[0])
    rename(desk, "rod", names[1])
    before, sent = desk.state(), len(desk.workers.jobs)
    desk.session.tune()
    assert desk.level == "error" and desk.notice.startswith("Two segments are called ")
    assert not desk.session.busy and desk.state() == before and len(desk.workers.jobs) == sent


@pytest.mark.parametrize("names", PAIRS.values(), ids=PAIRS)
def test_an_example_teaches_a_class_that_looks_the_same(desk, names):
    rename(desk, "ball", names[0])
    other = desk.another_volume()
    rename(desk, "ball", names[1], node_references.remembered(other))
    desk.session.inputs.add_example(other)
    desk.tune()
    assert set(desk.last_job.values["classes"]) == {names[0], "rod"}
    assert set(desk.last_job.said(1)) == {names[0], "rod", "background"}


def test_what_an_example_does_not_teach_is_said(desk):
    other, third = desk.another_volume("Two"), desk.another_volume("Three", 7)
    rename(desk, "ball", "tumor", node_references.remembered(other))
    rename(desk, "ball", "Ball", node_references.remembered(third))
    rename(desk, "rod", "bone", node_references.remembered(third))
    for volume in (other, third):
        desk.session.inputs.add_example(volume)
    desk.session.tune()
    run(desk.session)
    assert desk.level == "warning" and desk.session.view().preview == "Result"
    assert "Two does not teach tumor: no segment here has that name." in desk.notice
    assert "Three does not teach Ball, bone: no segment here has these names." in desk.notice
    assert len(desk.last_job.values["examples"]) == 2


def test_an_empty_segment_of_an_example_needs_no_word(desk):
    other = desk.another_volume("Two")
    node_references.remembered(other).GetSegmentation().AddEmptySegment("x", "nothing yet")
    desk.session.inputs.add_example(other)
    desk.tune()


def test_two_segments_of_an_example_that_look_the_same(desk):
    other = desk.another_volume("Two")
    rename(desk, "rod", "ball ", node_references.remembered(other))
    desk.session.inputs.add_example(other)
    desk.session.tune()
    assert desk.level == "error" and desk.notice.startswith("Two segments of Two are called ball")


def test_prompts_find_the_segment_that_looks_the_same(desk):
    desk.tuned()
    key, other = desk.own_key(), desk.another_volume()
    rename(desk, "ball", "ball ", node_references.remembered(other))
    desk.session.segment(key, [other])
    run(desk.session)
    assert desk.level == "info", desk.notice
    assert sorted(segments_by_name(node_references.remembered(other))) == ["background", "ball ", "rod"]


def test_a_retuning_goes_on_under_a_name_that_looks_the_same(desk):
    desk.tuned()
    rename(desk, "ball", " ball ")
    desk.paint("rod", box_in(desk.mask("rod")), "erase")
    desk.tuned()
    assert sorted(desk.own_prompts().names) == [" ball ", "rod"]


@pytest.mark.parametrize("name", ["left\u00a0ball", "ball\u200b", "", " ", "two\nlines", "x" * 129])
def test_a_name_that_no_class_can_have_is_refused(desk, name):
    rename(desk, "ball", name)
    desk.session.tune()
    assert desk.level == "error" and desk.notice.startswith("The name of a segment ("), desk.notice


# Segments that overlap


def overlapping(desk: Desk, name: str, over: str, part: float = 1.0) -> int:
    """Let a segment cover another's strokes, or a part of them, without taking them away; how many voxels."""
    mask = desk.mask(over)
    places = np.argwhere(mask)
    kept = np.zeros(mask.shape, bool)
    kept[tuple(places[: int(len(places) * part)].T)] = True
    before = desk.mask(over)
    ids = segments_by_name(desk.segmentation)
    both = kept | (desk.mask(name) if name in ids else kept)
    desk.paint(name, both, "set")
    assert (desk.mask(over) == before).all()
    return int(kept.sum())


@pytest.mark.parametrize("winner, loser", [("rod", "ball"), ("later", "rod"), ("background", "ball")])
def test_a_class_that_lies_all_under_another_is_refused_by_name(desk, winner, loser):
    overlapping(desk, winner, loser)
    before, sent = desk.state(), len(desk.workers.jobs)
    desk.session.tune()
    run(desk.session)
    assert desk.level == "error" and f"painted in {loser} lies under {winner}" in desk.notice
    assert desk.state() == before and len(desk.workers.jobs) == sent


@pytest.mark.parametrize("winner, loser", [("rod", "ball"), ("background", "ball"), ("later", "rod")])
def test_strokes_that_lie_under_another_are_told(desk, winner, loser):
    count = overlapping(desk, winner, loser, 0.4)
    desk.session.tune()
    run(desk.session)
    assert desk.level == "warning" and desk.session.view().preview == "Result", desk.notice
    assert f"{loser} and {winner} overlap; there ({count} voxels) it counts as {winner}." in desk.notice
    said = desk.last_job.said()
    assert said[loser].sum() == desk.mask(loser).sum() - count and said[winner].sum() == desk.mask(winner).sum()


@pytest.mark.parametrize("role", ["ignore", "locked"])
def test_a_segment_that_is_not_taught_hides_nothing(desk, role):
    overlapping(desk, "sketch", "ball")
    set_role(desk.segmentation, desk.id_of("sketch"), role)
    desk.tune()
    assert desk.last_job.said()["ball"].sum() == desk.mask("ball").sum()


def test_segments_that_only_touch_need_no_word(desk):
    ball = desk.mask("ball")
    beside = np.roll(ball, 1, axis=2) & ~ball
    desk.paint("rod", beside | desk.mask("rod"), "set")
    desk.tune()


@pytest.mark.parametrize("unpainted", ["slices", "volume"])
def test_overlaps_of_complete_segments_are_told(desk, unpainted):
    desk.session.parameters.unpainted = unpainted
    count = overlapping(desk, "rod", "ball", 0.3)
    desk.session.tune()
    run(desk.session)
    assert f"({count} voxels)" in desk.notice and desk.level == "warning"


def test_results_that_overlap_are_no_strokes(desk):
    desk.session.parameters.overlap = "overlap"
    desk.tuned()
    overlapping(desk, "rod", "ball", 1.0)
    desk.session.tune()
    run(desk.session)
    assert desk.session.view().preview == "Result" and "lies under" not in desk.notice


def test_what_lies_hidden_in_an_example_is_told(desk):
    other = desk.another_volume("Two")
    there = Desk.__new__(Desk)
    there.segmentation, there.volume = node_references.remembered(other), other
    overlapping(there, "rod", "ball")
    desk.session.inputs.add_example(other)
    desk.session.tune()
    run(desk.session)
    assert "On Two: all that is painted in ball lies under rod and is not taught." in desk.notice
    assert desk.level == "warning" and desk.session.view().preview == "Result"


def test_a_correction_over_an_old_stroke_needs_no_word(desk):
    desk.tuned()
    place = box_in(desk.mask("ball"))
    desk.paint("rod", place, "add")  # as the editor paints: it takes the voxels from the other
    assert not (desk.mask("ball") & place).any()
    desk.tune()


def test_a_blank_desk_gets_no_notes(blank_desk):
    paint_strokes(blank_desk.segmentation, blank_desk.volume, blank_desk.reference)
    blank_desk.tune()
    assert set(blank_desk.last_job.said()) == {*CLASSES, "background"}


def test_names_with_which_slicer_cannot_open_a_scene_again_are_told(desk, tmp_path):
    desk.tuned()
    assert "Rename" not in desk.notice
    desk.volume.SetName("Smith & Jones")
    desk.segmentation.SetName("His & hers")
    desk.paint("ball", box_in(desk.mask("ball")), "erase")
    desk.tuned()
    assert "Rename Volume 'Smith & Jones', Segmentation 'His & hers' before you save" in desk.notice
    desk.segmentation.SetName("His")
    desk.volume.AddDefaultStorageNode()
    desk.volume.GetStorageNode().SetFileName(str(tmp_path / "smith & jones.nrrd"))  # Slicer asks before it writes there
    desk.paint("rod", box_in(desk.mask("rod")), "erase")
    desk.tuned()
    assert "Rename" not in desk.notice
    desk.volume.SetName("CT\x07")  # whatever has a file
    desk.paint("rod", box_in(desk.mask("rod")), "erase")
    desk.tuned()
    assert "Rename Volume 'CT\x07' before you save" in desk.notice
    key = desk.own_key()
    desk.session.prompts.rename(key, "mine\x07")
    assert desk.level == "error" and "written" in desk.notice


@pytest.mark.parametrize("then", ["goes on", "is reopened"])
def test_a_class_that_an_applied_one_lies_under_is_not_corrected_by_that(desk, tmp_path, then):
    desk.session.parameters.overlap = "overlap"
    desk.tuned()
    ball = desk.mask("ball")
    overlapping(desk, "tumor", "ball", 0.1)
    tumor = desk.mask("tumor")
    desk.tuned()
    assert (desk.mask("ball") == ball).all() and (ball & desk.mask("tumor")).sum() >= tumor.sum()
    if then == "is reopened":
        save_scene(desk.scene, tmp_path / "overlap.mrb")
        desk.session.close()
        desk.scene = load_scene(tmp_path / "overlap.mrb")
        desk.volume = desk.scene.GetFirstNodeByName("CT")
        desk.session = desk.new_session(desk.scene)
        desk.session.inputs.choose_volume(desk.volume)
        desk.segmentation = desk.session.parameters.segmentation
    desk.tune()
    said = {name: where.sum() for name, where in desk.last_job.said().items()}
    painted = {name: ((desk.strokes == value) & ~tumor).sum() for name, value in CLASSES.items()}
    assert said == {**painted, "tumor": tumor.sum(), "background": said["background"]}
