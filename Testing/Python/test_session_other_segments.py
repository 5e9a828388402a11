"""Segments that were there already, or are changed while a tuning runs: locked, covered, renamed, removed."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer")

from harness.mrml_fixtures import (
    box_in,
    content,
    mask_of,
    nodes_of,
    run,
)
from harness.scene_nodes import segments_by_name
from harness.session_harness import Desk
from harness.tiny_model import CLASSES
from PromptSegLib.prompts.store import Prompts
from PromptSegLib.scene.roles import set_role
from PromptSegLib.scene.segmentations import segments


def cover_half(desk: Desk, name: str = "cover") -> tuple[np.ndarray, np.ndarray]:
    """Paint another segment over half of what the waiting result gives to the ball; that half, and all of it."""
    preview = next(node for node in nodes_of(desk.scene) if node[2] == "PromptSeg preview")
    ball = mask_of(desk.scene.GetNodeByID(preview[0]), desk.volume, "ball")
    half = ball & (np.arange(ball.shape[2]) < 14)
    desk.paint(name, half, "set")
    return half, ball


def test_overlap_is_what_was_chosen(desk):
    for policy, ball_has_it, cover_has_it in (
        ("keep", False, True),
        ("overwrite", True, False),
        ("overlap", True, True),
    ):
        desk.tune()
        half, ball = cover_half(desk)
        set_role(desk.segmentation, desk.id_of("cover"), "ignore")
        desk.session.parameters.overlap = policy
        desk.apply()
        assert desk.mask("ball")[half].any() == desk.mask("ball")[half].all() == ball_has_it
        assert desk.mask("cover")[half].any() == desk.mask("cover")[half].all() == cover_has_it
        assert desk.mask("ball")[ball & ~half].all()
        desk.session.history.undo()


def test_what_a_result_takes_from_another_class_is_no_correction_of_that(desk):
    desk.session.parameters.overlap = "overwrite"
    desk.tuned()
    ball = desk.mask("ball")
    desk.paint("tumor", box_in(ball) & (desk.strokes != CLASSES["ball"]), "set")
    desk.tune()
    assert desk.last_job.values["wanted"] == ["tumor"]
    erased = ball & (np.arange(ball.shape[0]) == np.argwhere(ball)[0][0])[:, None, None]
    desk.paint("ball", erased, "erase")
    desk.apply()
    assert (ball & desk.mask("tumor")).any() and not (desk.mask("ball") & desk.mask("tumor")).any()
    desk.tune()
    assert desk.last_job.values["wanted"] == ["ball"] and desk.last_job.said()["not ball"].sum() == erased.sum()


def test_what_is_painted_in_a_class_that_keeps_its_voxels_stays(desk):
    desk.tuned()
    ball = desk.mask("ball")
    tumor = box_in(ball, 1) & (desk.strokes != CLASSES["ball"])
    desk.paint("tumor", tumor, "set")  # as with the editor's "Allow overlap"
    desk.tuned()
    assert np.array_equal(desk.mask("ball"), ball) and np.array_equal(desk.mask("tumor") & ball, tumor)
    desk.tune()
    said = desk.last_job.said()
    assert {name: said[name].sum() for name in ("tumor", "ball")} == {
        "tumor": tumor.sum(),
        "ball": (desk.strokes == CLASSES["ball"]).sum(),
    }


@pytest.mark.parametrize("policy", ["keep", "overwrite", "overlap"])
def test_a_locked_segment_is_never_overwritten(desk, policy):
    desk.session.parameters.overlap = policy
    desk.tune()
    half, _ = cover_half(desk)
    set_role(desk.segmentation, desk.id_of("cover"), "locked")
    desk.apply()
    assert np.array_equal(desk.mask("cover"), half)
    assert not desk.mask("ball")[half].any() and desk.mask("ball").any()


def test_a_segment_locked_meanwhile_keeps_its_voxels(desk):
    before = desk.mask("ball")
    desk.begin_long()
    set_role(desk.segmentation, desk.id_of("ball"), "locked")
    desk.session.apply()
    run(desk.session)
    assert np.array_equal(desk.mask("ball"), before)
    assert desk.mask("rod").sum() > (desk.strokes == CLASSES["rod"]).sum()
    assert "ball" in desk.notice and "locked" in desk.notice


def test_all_locked_meanwhile_applies_nothing(desk):
    desk.begin_long()
    for name in CLASSES:
        set_role(desk.segmentation, desk.id_of(name), "locked")
    before = content(desk.segmentation)
    desk.session.apply()
    run(desk.session)
    assert content(desk.segmentation) == before
    assert desk.level in ("warning", "error") and "locked" in desk.notice
    assert desk.session.view().tune_text == "Tune prompts" and desk.session.view().reasons["undo"]


def test_renamed_meanwhile(desk):
    desk.begin_long()
    desk.segment("ball").SetName("bladder")
    number = desk.last_job.values["classes"]["ball"]
    desk.apply()
    assert set(segments_by_name(desk.segmentation)) == {"bladder", "rod", "background"}
    assert desk.mask("bladder")[desk.strokes == CLASSES["ball"]].all()
    desk.paint("bladder", box_in(desk.mask("bladder")), "erase")
    desk.tune()
    assert desk.last_job.values["wanted"] == ["bladder"] and desk.last_job.values["classes"]["bladder"] == number
    assert set(Prompts.from_bytes(desk.last_job.arrays["start"].tobytes()).names) == {"bladder", "rod"}
    desk.apply()
    assert set(desk.own_prompts().names) == {"bladder", "rod"}


def test_two_names_exchanged_between_tunings(desk):
    desk.tuned()
    ball = desk.mask("ball")
    one, other = desk.segment("ball"), desk.segment("rod")
    one.SetName("rod")
    other.SetName("ball")
    assert np.array_equal(desk.mask("rod"), ball)
    values = desk.last_job.values["classes"]
    desk.paint("rod", box_in(ball), "erase")
    desk.tune()
    assert desk.last_job.values["wanted"] == ["rod"]
    assert desk.last_job.values["classes"] == {"rod": values["ball"], "ball": values["rod"]}


def test_removed_meanwhile(desk):
    desk.begin_long()
    desk.segmentation.GetSegmentation().RemoveSegment(desk.id_of("ball"))
    desk.session.apply()
    run(desk.session)
    assert set(segments_by_name(desk.segmentation)) == {"rod", "background"}
    assert desk.mask("rod")[desk.strokes == CLASSES["rod"]].all()
    assert desk.level == "warning" and "ball" in desk.notice
    desk.paint("rod", box_in(desk.mask("rod")), "erase")
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {"rod"}


def test_all_removed_meanwhile(desk):
    desk.begin_long()
    desk.segmentation.GetSegmentation().RemoveAllSegments()
    desk.session.apply()
    run(desk.session)
    assert not segments(desk.segmentation) and not desk.session.view().busy
    assert desk.level == "error" and "removed" in desk.notice
    assert desk.session.view().reasons["tune"]
