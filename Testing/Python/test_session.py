"""The session with real nodes, a real worker and a tiny backbone: what a user does, and what may go wrong meanwhile."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("slicer")

from scenes import (
    Sent,
    Workers,
    add_volume,
    box_in,
    content,
    mask_of,
    new_session,
    nodes_of,
    paint,
    paint_strokes,
    put_under,
    run,
)
from test_scene_looking import add_views
from test_scene_segmentations import bent
from test_scene_volumes import rotation
from tiny import CLASSES, painted, phantom

from PromptSegLib.examples.geometry import Grid
from PromptSegLib.inference.result import Segmentation
from PromptSegLib.models import catalogue
from PromptSegLib.prompts.classes import ClassInfo
from PromptSegLib.prompts.store import Prompts
from PromptSegLib.scene import links, prompt_nodes
from PromptSegLib.scene.placement import to_array
from PromptSegLib.scene.roles import set_role
from PromptSegLib.scene.segmentations import apply_result, segments, segments_by_name
from PromptSegLib.scene.storage import load_scene, new_scene, save_scene
from PromptSegLib.scene.volumes import image_from_volume
from PromptSegLib.session.requests import start_worker
from PromptSegLib.session.session import Session
from PromptSegLib.worker.client import Worker

BRIEF, LONG = 0.3, 600.0  # seconds of tuning; nobody waits for the end of a long one
TURNED = np.eye(4)
TURNED[:3, :3], TURNED[:3, 3] = rotation(-10, 5, 80), (30, -20, 11)
SHIFTED = np.array([[0.0, -1, 0, 12], [1, 0, 0, -40], [0, 0, 1, 7], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    lent = Workers()
    yield lent
    lent.end()


class Desk:
    """A scene with a painted volume, and a session on it."""

    def __init__(self, models: Path, workers: Workers, **volume: Any):
        self.scene, self.models, self.workers = new_scene(), models, workers
        self._sessions: list[Session] = []
        self.volume, self.reference = add_volume(self.scene, **volume)
        self.session = self.new_session(self.scene)
        self.session.choose_volume(self.volume)
        self.segmentation = self.session.ensure_segmentation()
        self.strokes = sitk.GetArrayFromImage(painted(self.reference))

    def new_session(self, scene: Any, make_worker: Optional[Callable] = None, **choices: Any) -> Session:
        others = {"make_worker": make_worker or self.workers}
        self._sessions.append(
            new_session(scene, self.models / "tiny0.safetensors", others, **{"seconds": BRIEF, **choices})
        )
        return self._sessions[-1]

    def close(self) -> None:
        """An open session and its scene must not be left to the garbage collector: it crashes."""
        for session in self._sessions:
            session.close()

    @property
    def notice(self) -> str:
        return self.session.view().notice.text

    @property
    def level(self) -> str:
        return self.session.view().notice.level

    @property
    def last_job(self) -> Sent:
        return self.workers.jobs[-1]

    def state(self) -> tuple[dict, list]:
        """Everything a job must not change before Apply."""
        return content(self.segmentation), nodes_of(self.scene)

    def tune(self) -> None:
        self.session.tune()
        run(self.session)
        assert self.level == "info", self.notice
        assert self.session.view().preview == "Result"

    def apply(self) -> None:
        self.session.apply()
        run(self.session)
        assert self.level == "info", self.notice

    def tuned(self) -> Desk:
        self.tune()
        self.apply()
        return self

    def begin_long(self, until: Callable[[Session], bool] = lambda session: shows_tuned(session)) -> None:
        """Start a tuning that will not end by itself, and let it come to some point: it has shown tuned prompts."""
        self.session.parameters.seconds = LONG
        self.session.tune()
        run(self.session, until=until)
        self.session.parameters.seconds = BRIEF

    def mask(self, name: str) -> np.ndarray:
        return mask_of(self.segmentation, self.volume, name)

    def paint(self, name: str, mask: np.ndarray, mode: str = "add") -> None:
        paint(self.segmentation, self.volume, mask.astype(np.uint8), {name: 1}, mode)

    def id_of(self, name: str) -> str:
        return segments_by_name(self.segmentation)[name]

    def segment(self, name: str) -> Any:
        return self.segmentation.GetSegmentation().GetSegment(self.id_of(name))

    def own_key(self) -> str:
        return next(row.key for row in self.session.view().prompts if row.current)

    def own_prompts(self) -> Prompts:
        return prompt_nodes.prompts_of(prompt_nodes.linked(self.segmentation))

    def another_volume(self, name: str = "Other", seed: int = 5, paint_it: bool = True) -> Any:
        """A further volume, with painted segments of its own when wanted."""
        volume, reference = add_volume(self.scene, name, seed=seed)
        if paint_it:
            segmentation = links.new_segmentation(self.scene, volume, f"{name} strokes")
            links.remember(volume, segmentation)
            paint_strokes(segmentation, volume, reference)
        return volume


@pytest.fixture
def desk(models, workers) -> Iterator[Desk]:
    """A desk with the usual strokes painted."""
    desk = Desk(models, workers)
    paint_strokes(desk.segmentation, desk.volume, desk.reference)
    yield desk
    desk.close()


@pytest.fixture
def blank_desk(models, workers) -> Iterator[Desk]:
    desk = Desk(models, workers)
    yield desk
    desk.close()


@pytest.fixture
def oblique_desk(models, workers) -> Iterator[Desk]:
    desk = Desk(models, workers, direction=tuple(rotation(20, -35, 50).ravel()), matrix=SHIFTED)
    yield desk
    desk.close()


def reported(session: Session) -> bool:
    return session.view().share > 0


def shows_tuned(session: Session) -> bool:
    """Whether a preview of tuned prompts has come, not only the first look."""
    result = session._results.result
    return result is not None and result.prompts is not None


def group_of(prompts: Prompts, name: str) -> bytes:
    """All that a class's output depends on."""
    members = list(prompts.only([name]).classes)
    return b"".join(each.tensors[key].tobytes() for each in members for key in sorted(each.tensors))


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
    session.on_change(lambda: seen.append((session.view().preview, session.view().tune_text)))
    before = content(segmentation)
    session.tune()
    assert session.view().busy and session.view().tune_text == "Cancel"
    run(session)
    assert ("Preview, still improving", "Cancel") in seen and session.view().preview == "Result"
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
    session.undo()
    assert set(desk.own_prompts().names) == set(CLASSES)
    session.redo()
    assert content(segmentation) == applied and set(desk.own_prompts().names) == {*CLASSES, "corner"}
    prompts = desk.own_prompts().to_bytes()
    save_scene(desk.scene, tmp_path / "case.mrb")
    session.close()

    # The next day.
    scene = load_scene(tmp_path / "case.mrb")
    desk.scene, desk.session = scene, desk.new_session(scene)
    desk.volume = scene.GetFirstNodeByName("CT")
    desk.session.choose_volume(desk.volume)
    desk.segmentation = desk.session.parameters.segmentation
    assert desk.segmentation is not None and desk.session.ensure_segmentation() is desk.segmentation
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
    desk.session.choose_volume(desk.volume)
    desk.paint("ball", box_in(desk.mask("ball")), "erase")
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {"ball"} and "start" in desk.last_job.arrays


@pytest.mark.parametrize("nodes", ["both", "segmentation"])
def test_corrections_are_recognised_after_a_transform_was_changed(desk, nodes):
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
    from PromptSegLib.scene.painting import snapshot

    segment_id = desk.id_of(name)
    image = snapshot(desk.segmentation, desk.volume, [segment_id]).labels({segment_id: 1})
    array = sitk.GetArrayFromImage(image)
    box = box_in(array == 1)
    array[box] = 0
    result = Segmentation(Grid.of(image).image(array), (ClassInfo(name, 1, (1.0, 0.0, 0.0)),))
    apply_result(desk.segmentation, desk.volume, result, segment_ids={name: segment_id})
    return Grid.of(image), int(box.sum())


def test_a_hardened_transform_is_no_correction(desk):
    put_under(desk.scene, desk.segmentation, TURNED)
    put_under(desk.scene, desk.volume, TURNED)
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


MOMENTS = {
    "at once": lambda session: True,
    "sent": lambda session: bool(session.view().stage) and session.view().stage != "preparing",
    "first report": reported,
    "preview": lambda session: session.view().preview != "",
    "tuning": lambda session: len(session.view().curve) > 3,
}


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
    assert desk.session.view().preview == "Preview, still improving"
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
    assert desk.session.view().tune_text == "Retune"
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
    for second in (desk.session.tune, lambda: desk.session.segment(key), desk.session.undo):
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
    desk.session.choose_volume(other)
    run(desk.session)
    assert not desk.session.view().preview and desk.state() == before
    assert desk.session.parameters.segmentation is links.remembered(other)
    desk.session.choose_volume(desk.volume)
    assert desk.session.parameters.segmentation is desk.segmentation


def test_a_volume_without_a_segmentation_gets_its_own(desk):
    """Not that of the volume before: painting there would be lost to both."""
    other = desk.another_volume(paint_it=False)
    desk.session.choose_volume(other)
    own = desk.session.ensure_segmentation()
    assert own is not desk.segmentation and links.remembered(other) is own
    desk.session.choose_volume(desk.volume)
    assert desk.session.ensure_segmentation() is desk.segmentation


def test_the_preview_is_dressed_as_chosen(desk):
    desk.session.parameters.opacity = 0.3
    desk.tune()
    preview = next(node for node in nodes_of(desk.scene) if node[2] == "PromptSeg preview")
    display = desk.scene.GetNodeByID(preview[0]).GetDisplayNode()
    assert display.GetOpacity() == pytest.approx(0.3)
    desk.session.parameters.opacity, desk.session.parameters.show3D = 0.8, True
    desk.session.show_opacity()
    assert display.GetOpacity() == pytest.approx(0.8) and display.GetVisibility3D()


# Other segments


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
        desk.session.undo()


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


# Refusals


def test_nothing_to_tune(blank_desk):
    desk = blank_desk
    assert "segment" in desk.session.view().reasons["tune"]
    desk.paint("ball", np.zeros((20, 40, 48)), "set")
    before = desk.state()
    desk.session.tune()
    run(desk.session)
    assert desk.level == "error" and "paint" in desk.notice.lower() and desk.state() == before
    desk.session.parameters.volume = None
    assert "volume" in desk.session.view().reasons["tune"]


def test_only_one_kind_of_voxel_is_painted(blank_desk):
    desk = blank_desk
    paint(desk.segmentation, desk.volume, painted(desk.reference), {"ball": CLASSES["ball"]})
    before = desk.state()
    desk.session.tune()
    run(desk.session)
    assert desk.level == "error" and "background" in desk.notice and desk.state() == before


@pytest.mark.parametrize("name", ["rod", "", "two\nlines"])
def test_names_that_cannot_be_told_apart_or_written(desk, name):
    desk.segment("ball").SetName(name)
    before, sent = desk.state(), len(desk.workers.jobs)
    desk.session.tune()
    run(desk.session)
    assert desk.level == "error" and "name" in desk.notice and "Error" not in desk.notice
    assert desk.state() == before and len(desk.workers.jobs) == sent


def test_two_segments_of_one_name_are_fine_when_one_is_not_tuned(desk):
    desk.segment("ball").SetName("rod")
    set_role(desk.segmentation, desk.id_of("rod"), "ignore")
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {"rod"}


def test_a_segmentation_of_another_place(desk):
    far = np.eye(4)
    far[:3, 3] = (500, 0, 0)
    put_under(desk.scene, desk.segmentation, far)
    before, sent = desk.state(), len(desk.workers.jobs)
    assert "outside the volume" in desk.session.view().reasons["tune"]
    desk.session.tune()
    run(desk.session)
    assert "outside the volume" in desk.notice and desk.state() == before and len(desk.workers.jobs) == sent


@pytest.mark.parametrize("share", ["some", "most"])
def test_painting_outside_the_volume(desk, share):
    grid = Grid.of(image_from_volume(desk.volume))
    large = grid.part([-40, 0, 0], [grid.size[0], grid.size[1], grid.size[2]])
    strokes = np.zeros(large.shape, np.uint8)
    strokes[..., 40:] = desk.strokes == CLASSES["ball"]
    strokes[5, 5, 10:14] = 1
    if share == "most":
        strokes[5:15, 5:15, 5:30] = 1
    ids = {"ball": desk.id_of("ball")}
    apply_result(
        desk.segmentation,
        desk.volume,
        Segmentation(large.image(strokes), (ClassInfo("ball", 1, (1, 0, 0)),)),
        True,
        ids,
    )
    before = desk.state()
    desk.session.tune()
    run(desk.session)
    if share == "most":
        assert desk.level == "error" and "outside" in desk.notice and desk.state() == before
    else:
        assert desk.level == "info", desk.notice
        desk.apply()
        assert desk.mask("ball")[desk.strokes == CLASSES["ball"]].all()


@pytest.mark.parametrize("which", ["volume", "segmentation"])
def test_a_nonlinear_transform(desk, which):
    desk.tuned()
    key = desk.own_key()
    getattr(desk, which).SetAndObserveTransformNodeID(bent(desk.scene))
    before = desk.state()
    assert "non-linear" in desk.session.view().reasons["tune"]
    for action in (desk.session.tune, lambda: desk.session.segment(key), desk.session.prepare, desk.session.undo):
        action()
        run(desk.session)
    desk.session.redo()
    assert desk.state() == before and not desk.session.view().preview
    desk.session.segment(key)
    run(desk.session)
    assert desk.level == "error" and "non-linear" in desk.notice


def test_a_transform_that_becomes_nonlinear_meanwhile(desk):
    desk.begin_long(MOMENTS["preview"])
    desk.segmentation.SetAndObserveTransformNodeID(bent(desk.scene))
    before = content(desk.segmentation)
    desk.session.apply()
    assert desk.level == "error" and "non-linear" in desk.notice and content(desk.segmentation) == before
    # Nothing is lost by that: the preview waits.
    run(desk.session)
    desk.segmentation.SetAndObserveTransformNodeID(None)
    desk.apply()
    assert desk.mask("ball").sum() > (desk.strokes == CLASSES["ball"]).sum()


def test_an_unknown_model(desk):
    desk.session.parameters.model = "no such model"
    assert "no such model" in desk.session.view().reasons["tune"]
    desk.session.tune()
    assert desk.level == "error" and not desk.session.view().busy


def test_a_volume_without_voxels(desk):
    empty = desk.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
    desk.session.choose_volume(empty)
    desk.session.ensure_segmentation()
    assert desk.session.view().reasons["tune"]
    desk.session.tune()
    run(desk.session)
    assert desk.level == "error"


# Nodes that go


@pytest.mark.parametrize("moment", ["at once", "first report", "preview"])
@pytest.mark.parametrize("which", ["volume", "segmentation"])
def test_deleted_while_it_runs(desk, which, moment):
    other = desk.another_volume()
    nodes = nodes_of(desk.scene)
    desk.begin_long(MOMENTS[moment])
    gone = getattr(desk, which)
    left = {gone.GetID(), *(gone.GetNthDisplayNode(n).GetID() for n in range(gone.GetNumberOfDisplayNodes()))}
    links.remove(gone)
    run(desk.session)
    view = desk.session.view()
    assert not view.busy and not view.preview and view.notice.level == "warning" and "removed" in view.notice.text
    assert view.reasons["tune"] and view.reasons["apply"]
    assert nodes_of(desk.scene) == [node for node in nodes if node[0] not in left]
    desk.session.choose_volume(other)
    desk.segmentation, desk.volume = links.remembered(other), other
    desk.tuned()


@pytest.mark.parametrize("which", ["volume", "segmentation"])
def test_deleted_while_a_result_waits(desk, which):
    desk.tune()
    links.remove(getattr(desk, which))
    run(desk.session)
    assert not desk.session.view().preview
    assert not [node for node in nodes_of(desk.scene) if "preview" in node[2]]
    desk.session.apply()
    assert desk.level == "error"


@pytest.mark.parametrize("moment", ["at once", "first report", "preview"])
def test_the_scene_closed_while_it_runs(desk, moment):
    desk.begin_long(MOMENTS[moment])
    desk.scene.Clear(0)
    assert not desk.session.view().busy and not desk.session.view().preview
    run(desk.session)
    assert not [node for node in nodes_of(desk.scene) if "PromptSeg" in node[2] or "CT" in node[2]]
    assert desk.session.view().reasons["tune"] and desk.session.view().reasons["look"]
    desk.volume, desk.reference = add_volume(desk.scene, "Next")
    desk.session.choose_volume(desk.volume)
    desk.segmentation = desk.session.ensure_segmentation()
    paint_strokes(desk.segmentation, desk.volume, desk.reference)
    desk.tuned()


def test_the_scene_closed_right_after_apply(desk):
    desk.tune()
    desk.session.apply()
    desk.scene.Clear(0)
    run(desk.session)
    assert not [node for node in nodes_of(desk.scene) if "PromptSeg" in node[2] or "CT" in node[2]]


@pytest.mark.parametrize("moment", ["at once", "preview"])
def test_voxels_replaced_while_it_runs(desk, moment):
    """As when a sequence goes to another frame: what comes belongs to voxels that are no longer there."""
    before = desk.state()
    desk.session.parameters.seconds = 1.5
    desk.session.tune()
    run(desk.session, until=MOMENTS[moment])
    other, _ = add_volume(new_scene(), shape=(14, 36, 44), seed=3)
    desk.volume.SetAndObserveImageData(other.GetImageData())
    run(desk.session)
    assert not desk.session.view().preview
    assert desk.level in ("warning", "error") and "CT" in desk.notice
    assert desk.state() == before
    desk.session.apply()
    assert content(desk.segmentation) == before[0]


# The worker


def killed(desk: Desk) -> None:
    os.kill(desk.workers.worker.pid, signal.SIGKILL)


@pytest.mark.skipif(os.name != "posix", reason="ends processes by signals")
def test_the_worker_killed_before_while_and_after(desk):
    before = desk.state()
    desk.begin_long(reported)
    killed(desk)
    run(desk.session)
    view = desk.session.view()
    assert not view.busy and not view.preview and view.notice.level == "error"
    assert "nothing is lost" in view.notice.text and "click" in view.notice.text
    assert desk.state() == before

    desk.begin_long(MOMENTS["preview"])  # the next click starts a fresh one
    killed(desk)
    run(desk.session)
    assert desk.level == "error" and not desk.session.view().preview and desk.state() == before

    desk.tune()
    killed(desk)
    run(desk.session, until=lambda session: desk.workers.worker.gone)
    assert desk.session.view().preview == "Result" and desk.level == "info"
    desk.apply()
    assert desk.mask("ball")[desk.strokes == CLASSES["ball"]].all()

    # Nobody looked since: the click goes to the dead worker, or to a fresh one.
    desk.paint("ball", box_in(desk.mask("ball")), "erase")
    desk.session.tune()
    run(desk.session)
    if desk.level == "error":
        assert "nothing is lost" in desk.notice
        desk.session.tune()
        run(desk.session)
    assert desk.session.view().preview == "Result"
    assert set(desk.last_job.values["wanted"]) == {"ball"}


def test_a_worker_that_cannot_be_started(desk):
    commands = [["/no/such/python", "-m", "PromptSegLib"], [sys.executable, "-c", "raise SystemExit(3)"], None]

    def make(parameters):
        command = commands[0]
        return desk.workers(parameters) if command is None else Worker(lambda folder: command)

    desk.session.close()
    desk.session = desk.new_session(desk.scene, make)
    desk.session.choose_volume(desk.volume)
    before = desk.state()
    for part in ("cannot be started", "ended unexpectedly"):
        desk.session.tune()
        run(desk.session)
        assert desk.level == "error" and part in desk.notice
        assert desk.state() == before and not desk.session.view().busy
        commands.pop(0)
    desk.tuned()


def test_a_host_that_is_none(desk):
    desk.session.parameters.device = "ssh"
    assert "host" in desk.session.view().reasons["tune"]
    desk.session.close()
    desk.session = desk.new_session(desk.scene, start_worker, device="ssh", host="-oProxyCommand=x")
    desk.session.choose_volume(desk.volume)
    before = desk.state()
    desk.session.tune()
    run(desk.session)
    assert desk.level == "error" and "host" in desk.notice and desk.state() == before


def test_prepared_once_for_each_volume(desk):
    jobs = desk.workers.jobs
    start = len(jobs)
    for _ in range(3):
        desk.session.prepare()
    assert [job.name for job in jobs[start:]] == ["prepare"]
    desk.tuned()
    desk.session.prepare()
    assert [job.name for job in jobs[start:]] == ["prepare", "tune"]
    desk.session.choose_volume(desk.another_volume())
    desk.session.prepare()
    assert jobs[-1].name == "prepare" and len(jobs) == start + 3
    desk.session.tune()  # waits in the worker for what it prepares
    run(desk.session)
    assert desk.session.view().preview == "Result"


# Prompts


@pytest.fixture
def listed(models, monkeypatch) -> None:
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
    path = models / "catalogue.json"
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

    session.save_prompts(own.key, tmp_path / "mine.safetensors")
    assert "Saved" in desk.notice
    assert Prompts.load(tmp_path / "mine.safetensors").to_bytes() == desk.own_prompts().to_bytes()
    session.save_prompts(shipped[0].key, tmp_path / "shipped.safetensors")
    assert Prompts.load(tmp_path / "shipped.safetensors").names == ["liver", "spleen", "aorta"]

    session.load_prompts(tmp_path / "mine.safetensors")
    loaded = session.view().prompts[-1]
    assert loaded.name == "mine" and not loaded.current and loaded.key != own.key
    session.rename_prompts(loaded.key, "  thorax  ")
    assert session.view().prompts[-1].name == "thorax"
    session.delete_prompts(loaded.key)
    assert [row.key for row in session.view().prompts] == [shipped[0].key, own.key]

    # The current ones deleted: segments stay, and a retuning still goes on from them.
    before = content(desk.segmentation)
    session.delete_prompts(own.key)
    assert content(desk.segmentation) == before and len(session.view().prompts) == 1
    desk.paint("ball", box_in(desk.mask("ball")), "erase")
    desk.tuned()
    assert "start" in desk.last_job.arrays and set(desk.own_prompts().names) == {"ball", "rod"}


def test_what_cannot_be_done_with_prompts(desk, listed, tmp_path):
    desk.tuned()
    key, nodes, session = desk.own_key(), nodes_of(desk.scene), desk.session
    (tmp_path / "damaged.safetensors").write_bytes(b"no prompts")
    for action in (
        lambda: session.rename_prompts("shipped:tiny0", "mine"),
        lambda: session.delete_prompts("shipped:tiny0"),
        lambda: session.rename_prompts(key, "  "),
        lambda: session.rename_prompts("vtkMRMLTextNode99", "mine"),
        lambda: session.delete_prompts(desk.volume.GetID()),
        lambda: session.save_prompts("", tmp_path / "none.safetensors"),
        lambda: session.save_prompts(key, tmp_path / "mine.txt"),
        lambda: session.save_prompts(key, tmp_path / "no folder" / "mine.safetensors"),
        lambda: session.load_prompts(tmp_path / "missing.safetensors"),
        lambda: session.load_prompts(tmp_path / "damaged.safetensors"),
        lambda: session.load_prompts(tmp_path),
        lambda: session.segment("shipped:nothing"),
        lambda: session.segment(""),
    ):
        session.load_prompts(desk.models / "tiny1.prompts.safetensors")  # so that an older notice is gone
        session.delete_prompts(session.view().prompts[-1].key)
        assert session.view().notice.level == "info", session.view().notice
        action()
        assert session.view().notice.level == "error" and session.view().notice.text.endswith(".")
        assert nodes_of(desk.scene) == nodes and not session.view().busy
    assert {path.name for path in tmp_path.iterdir()} == {"damaged.safetensors"}


def test_own_prompts_of_a_model_that_is_a_file(desk, tmp_path):
    """They can be saved, so they can be loaded again."""
    desk.tuned()
    desk.session.save_prompts(desk.own_key(), tmp_path / "mine.safetensors")
    desk.session.load_prompts(tmp_path / "mine.safetensors")
    assert desk.level == "info", desk.notice
    assert desk.session.view().prompts[-1].name == "mine" and not desk.session.view().prompts[-1].reason


def test_prompts_of_another_backbone(desk, listed):
    desk.session.load_prompts(desk.models / "tiny1.prompts.safetensors")
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
    desk.session.load_prompts(tmp_path / "earlier.safetensors")
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
    desk.session.undo()
    before = desk.state()
    desk.session.segment(desk.own_key())
    run(desk.session)
    assert desk.session.view().preview == "Result" and desk.level == "info"
    assert content(desk.segmentation) == before[0]
    desk.apply()
    for name, value in CLASSES.items():  # what is painted is honoured, and grown
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
    before, strokes = content(desk.segmentation), content(links.remembered(other))
    places = desk.session.view().look
    desk.session.segment(desk.own_key(), [one, other])
    run(desk.session)
    assert desk.level == "info", desk.notice
    assert content(desk.segmentation) == before and not desk.session.view().preview
    assert desk.session.view().look == places
    for volume in (one, other):
        made = links.remembered(volume)
        assert mask_of(made, volume, "ball").any() and mask_of(made, volume, "rod").any()
    painted_there = sitk.GetArrayFromImage(painted(phantom(seed=6)[1]))
    assert mask_of(links.remembered(other), other, "ball")[painted_there == CLASSES["ball"]].all()

    # It is an AI step like any other: it can be undone, and corrected.
    desk.session.choose_volume(other)
    assert desk.session.view().tune_text == "Retune"
    desk.session.undo()
    assert content(links.remembered(other)) == strokes


def test_a_result_on_another_volume_can_be_corrected_and_retuned(desk):
    desk.tuned()
    other = desk.another_volume(paint_it=False)
    desk.session.segment(desk.own_key(), [other])
    run(desk.session)
    desk.session.choose_volume(other)
    desk.volume, desk.segmentation = other, links.remembered(other)
    erased = box_in(desk.mask("ball"), 3)
    desk.paint("ball", erased, "erase")
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {"ball"} and "start" in desk.last_job.arrays
    desk.apply()
    assert not desk.mask("ball")[erased].any()


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
    made_of_surfaces = links.remembered(surfaces).GetSegmentation()
    made_of_surfaces.CreateRepresentation("Closed surface")
    made_of_surfaces.SetSourceRepresentationName("Closed surface")
    links.remove(gone)
    empty = desk.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
    nodes = nodes_of(desk.scene)
    desk.session.segment(desk.own_key(), [gone, empty, surfaces, last])
    run(desk.session)
    assert not desk.session.view().busy
    assert links.remembered(last) is not None and mask_of(links.remembered(last), last, "ball").any()
    assert links.remembered(empty) is None
    assert {"Empty segmentation", "Gone segmentation"}.isdisjoint(node[2] for node in nodes_of(desk.scene))
    assert set(nodes) <= set(nodes_of(desk.scene))


# Examples


def test_further_volumes_teach(desk):
    desk.session.add_example(desk.volume)
    assert desk.level == "error"
    plain = desk.another_volume("Plain", paint_it=False)
    desk.session.add_example(plain)
    assert desk.level == "error" and "segmentation" in desk.notice
    one, other = desk.another_volume("One"), desk.another_volume("Two", seed=8)
    others = links.remembered(other)
    others.GetSegmentation().GetSegment(segments_by_name(others)["rod"]).SetName("unlike")
    for volume in (one, other, one):
        desk.session.add_example(volume)
    assert desk.session.view().examples == (("Two", "Two strokes"), ("One", "One strokes"))
    desk.tune()
    job = desk.last_job
    assert len(job.values["examples"]) == 3 and len({each["image"] for each in job.values["examples"]}) == 3
    assert set(job.said(0)) == {"ball", "rod", "background"} == set(job.said(2))
    assert set(job.said(1)) == {"ball", "background"}
    desk.session.discard()

    desk.session.remove_example(other)
    links.remove(one)
    desk.tune()
    assert len(desk.last_job.values["examples"]) == 1 and desk.session.view().examples == ()


def test_an_example_with_nothing_painted_teaches_nothing(desk):
    other = desk.another_volume()
    for name in ("ball", "rod", "background"):
        paint(links.remembered(other), other, np.zeros((20, 40, 48), np.uint8), {name: 1})
    desk.session.add_example(other)
    desk.tune()
    assert len(desk.last_job.values["examples"]) == 1


# Where to look


def test_where_to_look_and_the_map(desk):
    views = add_views(desk.scene)
    assert desk.session.view().reasons["look"] and desk.session.view().reasons["map"]
    desk.session.look_next()
    assert desk.level == "error"
    desk.session.show_map(True)
    assert not desk.session.view().map_shown
    desk.tune()
    nodes = nodes_of(desk.scene)
    assert desk.session.view().look and not desk.session.view().reasons["look"]
    seen = set()
    for _ in range(3):
        desk.session.look_next()
        seen.add(tuple(to_array(views[0][0].GetSliceToRAS())[:3, 3]))
    grid = Grid.of(image_from_volume(desk.volume))
    z = [point[2] for point in seen]
    assert len(seen) > 1 and all(grid.corners().min(0)[2] <= each <= grid.corners().max(0)[2] for each in z)

    desk.session.show_map(True)
    shown = [node for node in nodes_of(desk.scene) if "uncertainty" in node[2]]
    assert desk.session.view().map_shown and len([node for node in shown if "ScalarVolume" in node[0]]) >= 1
    assert all(composite.GetForegroundVolumeID() == shown[0][0] for _, composite in views)
    desk.apply()
    desk.tune()
    desk.session.show_map(False)
    assert not [node for node in nodes_of(desk.scene) if "uncertainty" in node[2]]
    assert not any(composite.GetForegroundVolumeID() for _, composite in views)
    assert desk.session.view().preview and nodes


def test_what_is_remembered_goes_with_its_segmentation(desk):
    before = desk.scene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode")
    desk.tuned()
    assert desk.scene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode") == before + 2
    desk.scene.RemoveNode(desk.segmentation)
    assert desk.scene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode") == before


def test_the_map_goes_with_its_volume(desk):
    desk.tune()
    desk.session.show_map(True)
    links.remove(desk.volume)
    assert not desk.session.view().map_shown and desk.session.view().reasons["map"]
    assert not [node for node in nodes_of(desk.scene) if "uncertainty" in node[2]]
    desk.session.show_map(True)
    assert desk.level == "error"


# Clean-up


def test_clean_up_of_the_result(desk):
    desk.tune()
    plain = preview_mask(desk, "ball")
    desk.session.parameters.smoothing = 2.0
    desk.session.clean_up_changed()
    run(desk.session)
    smooth = preview_mask(desk, "ball")
    assert desk.session.view().preview == "Result" and not np.array_equal(smooth, plain)
    assert smooth[desk.strokes == CLASSES["ball"]].all()
    desk.session.parameters.smoothing = 0.0
    desk.session.clean_up_changed()
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
        links.remove(desk.segmentation)
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

    desk.session.undo()
    assert content(desk.segmentation) == corrected != first
    assert desk.own_prompts().to_bytes() == prompts
    desk.session.undo()
    assert content(desk.segmentation) == strokes and desk.session.view().tune_text == "Tune prompts"
    assert desk.session.view().reasons["undo"] and not desk.session.view().reasons["redo"]
    desk.session.redo()
    desk.session.redo()
    assert content(desk.segmentation) == second and desk.own_prompts().to_bytes() == later
    assert desk.session.view().tune_text == "Retune"


def test_what_was_undone_says_nothing(desk):
    desk.tuned()
    desk.session.undo()
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
    desk.session.undo()  # back to the first result with a correction
    desk.paint("ball", two & ~one, "erase")
    desk.tune()
    assert desk.last_job.said()["not ball"].sum() == (one | two).sum()
    desk.session.discard()
    desk.session.undo()
    desk.session.redo()
    assert desk.session.view().tune_text == "Retune"


def test_undo_right_after_apply_and_redo(desk):
    """Before the thread has remembered what was applied."""
    before = content(desk.segmentation)
    desk.tune()
    desk.session.apply()
    desk.session.undo()
    assert content(desk.segmentation) == before
    desk.session.redo()
    run(desk.session)
    desk.paint("ball", box_in(desk.mask("ball")), "erase")
    desk.tune()
    assert set(desk.last_job.values["wanted"]) == {"ball"} and "start" in desk.last_job.arrays


def test_undone_then_saved_and_reopened(desk, tmp_path):
    desk.tuned()
    erased = box_in(desk.mask("ball"))
    desk.paint("ball", erased, "erase")
    desk.tuned()
    desk.session.undo()  # to the first result, corrected
    save_scene(desk.scene, tmp_path / "undone.mrb")
    desk.session.close()
    desk.scene = load_scene(tmp_path / "undone.mrb")
    desk.volume = desk.scene.GetFirstNodeByName("CT")
    desk.session = desk.new_session(desk.scene)
    desk.session.choose_volume(desk.volume)
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
