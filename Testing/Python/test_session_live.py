"""Live preview: what a session grows by itself while the user paints, and what that never gets in the way of."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("slicer")

from harness.mrml_fixtures import box_in, paint, paint_strokes, run
from harness.session_harness import Desk, shows_tuned
from harness.tiny_model import CLASSES
from PromptSegLib.annotation.partial_labels import contradicted
from PromptSegLib.session import growing
from PromptSegLib.session.actions import Notice

GROWN, CORRECTED = "Grown from strokes; Tune prompts refines it", "Grown from strokes; Retune refines it"


def stroke(desk: Desk) -> None:
    """What the panel does a moment after a stroke; then let it come to its end."""
    desk.session.painted()
    run(desk.session)


def shown(desk: Desk, name: str) -> np.ndarray:
    """Where the preview has a class, on the volume's voxels."""
    result = desk.session.results.shown
    value = next(info.value for info in result.classes if info.name == name)
    on = sitk.Resample(result.labels, desk.reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return sitk.GetArrayFromImage(on) == value


def jobs(desk: Desk, name: str = "grow") -> list:
    return [each for each in desk.workers.jobs if each.name == name]


def test_a_stroke_is_grown_applied_and_corrected_without_a_tuning(desk):
    desk.session.parameters.model = "no such model"  # none is needed
    before = desk.state()[0]
    stroke(desk)
    assert desk.session.view().preview == GROWN and desk.session.view().tune_text == "Tune prompts"
    assert desk.state()[0] == before
    assert not desk.session.view().reasons["apply"] and not desk.session.view().reasons["discard"]
    assert not desk.session.view().device  # that is told of what the model does
    for name, value in CLASSES.items():
        mask = shown(desk, name)
        assert mask[desk.strokes == value].all() and mask.sum() > 2 * (desk.strokes == value).sum()
    desk.apply()
    assert desk.session.view().tune_text == "Tune prompts"  # no prompts were made
    assert not [row for row in desk.session.view().prompts if row.current]
    ball, rod = desk.mask("ball"), desk.mask("rod")

    # Applying is no stroke.
    count = len(jobs(desk))
    stroke(desk)
    assert len(jobs(desk)) == count and not desk.session.view().preview

    erased = box_in(ball)
    desk.paint("ball", erased, "erase")
    stroke(desk)
    assert len(jobs(desk)) == count + 1 and "accepted" in jobs(desk)[-1].arrays
    assert desk.session.view().preview == GROWN
    assert not (shown(desk, "ball") & erased).any()
    assert np.array_equal(shown(desk, "rod"), rod)  # on the far side
    desk.apply()
    assert not (desk.mask("ball") & erased).any() and np.array_equal(desk.mask("rod"), rod)


def test_the_same_strokes_are_not_grown_again_and_what_was_discarded_stays_so(desk):
    stroke(desk)
    count = len(jobs(desk))
    stroke(desk)
    assert len(jobs(desk)) == count and desk.session.view().preview == GROWN
    desk.session.discard()
    stroke(desk)
    assert len(jobs(desk)) == count and not desk.session.view().preview
    more = np.zeros(desk.strokes.shape, bool)
    more[8, 12:16, 13] = True
    desk.paint("ball", more)
    stroke(desk)
    assert len(jobs(desk)) == count + 1 and shown(desk, "ball")[more].all()


def test_the_next_stroke_replaces_the_job(desk):
    desk.session.painted()
    run(desk.session, until=lambda session: session.growing.active is not None)
    more = np.zeros(desk.strokes.shape, bool)
    more[8, 26:30, 36] = True
    desk.paint("rod", more)
    stroke(desk)
    assert shown(desk, "rod")[more].all()
    assert desk.workers.worker is not None and not desk.workers.worker.gone  # nothing was ended for that


@pytest.mark.parametrize("painted", ["nothing", "one class", "background", "off", "no volume"])
def test_what_cannot_be_grown_is_left_in_silence(blank_desk, painted):
    desk = blank_desk
    count = len(desk.workers.jobs)
    if painted in ("one class", "background"):
        name, value = ("ball", CLASSES["ball"]) if painted == "one class" else ("background", 7)
        paint(desk.segmentation, desk.volume, desk.strokes, {name: value})
    elif painted != "nothing":
        paint_strokes(desk.segmentation, desk.volume, desk.reference)
    if painted == "off":
        desk.session.parameters.live = False
    elif painted == "no volume":
        desk.session.parameters.volume = None
    stroke(desk)
    assert len(desk.workers.jobs) == count
    assert not desk.session.view().preview and not desk.notice


def test_switching_it_off_takes_the_preview_away_and_on_brings_it(desk):
    stroke(desk)
    desk.session.parameters.live = False
    desk.session.live_changed()
    assert not desk.session.view().preview and not desk.session.busy
    desk.session.parameters.live = True
    desk.session.live_changed()
    run(desk.session)
    assert desk.session.view().preview == GROWN


def test_erasing_all_strokes_takes_the_preview_away(desk):
    stroke(desk)
    everywhere = np.ones(desk.strokes.shape, bool)
    for name in CLASSES:
        desk.paint(name, everywhere, "erase")
    stroke(desk)
    assert not desk.session.view().preview and not desk.notice


def test_what_is_said_of_a_preview_calls_segments_as_they_are_called_now(desk):
    stroke(desk)
    before = " ".join(desk.session.view().remarks)
    told = next(name for name in CLASSES if name in before)
    segments = desk.segmentation.GetSegmentation()
    segments.GetSegment(segments.GetSegmentIdBySegmentName(told)).SetName("femur")
    assert " ".join(desk.session.view().remarks) == before.replace(told, "femur")


def test_tuning_goes_first_and_the_grown_preview_stays_until_its_own(desk):
    stroke(desk)
    more = np.zeros(desk.strokes.shape, bool)
    more[8, 12:16, 13] = True
    desk.paint("ball", more)
    desk.session.painted()
    desk.begin_long(until=lambda session: session.view().stage not in ("", "preparing"))
    assert desk.session.growing.active is None and not desk.session.growing.busy
    run(desk.session, until=shows_tuned)
    assert desk.session.view().preview == "Preview" and desk.last_job.values["grown"]
    desk.session.cancel()
    assert desk.session.view().preview == GROWN and desk.notice == "Cancelled; nothing was changed."
    run(desk.session)
    assert desk.session.view().preview == GROWN


def test_strokes_during_a_tuning_are_told_and_its_result_is_not_replaced(desk):
    desk.begin_long(until=shows_tuned)
    assert not desk.last_job.values["grown"]  # nothing was seen: the tuning grows what is painted first
    count = len(jobs(desk))
    desk.session.painted()  # nothing was painted
    assert not desk.session.jobs.active.missed
    more = np.zeros(desk.strokes.shape, bool)
    more[8, 12:16, 13] = True
    desk.paint("ball", more)
    desk.session.painted()
    assert desk.session.jobs.active.missed and len(jobs(desk)) == count
    desk.session.cancel()
    run(desk.session)
    assert len(jobs(desk)) == count + 1 and desk.session.view().preview == GROWN  # with the new ones

    desk.tune()
    assert "new strokes" not in desk.notice
    desk.session.painted()
    assert "new strokes" not in desk.notice
    more[8, 12:16, 15] = True
    desk.paint("ball", more)
    stroke(desk)
    told, again = desk.notice.split(" Grown as")[0], "Tune prompts to include the new strokes."
    assert told.startswith("Done in ") and desk.notice.endswith(again) and desk.session.view().preview == "Result"
    desk.session.actions.notice = Notice()
    stroke(desk)
    assert desk.notice.endswith(again)  # as long as it is so
    assert len(jobs(desk)) == count + 1
    # Its result taken, the strokes are corrections.
    desk.apply()
    assert desk.mask("ball")[more].all()


@pytest.mark.parametrize("name", ["ball", "background"])
def test_all_that_is_erased_while_a_result_waits_is_told(desk, name):
    desk.tune()
    desk.paint(name, desk.mask(name), "erase")
    stroke(desk)
    assert "to include the new strokes" in desk.notice and not desk.mask(name).any()


def test_a_result_of_other_prompts_is_not_replaced(desk):
    desk.tuned()
    desk.session.segment(desk.own_key())
    run(desk.session)
    count = len(jobs(desk))
    desk.paint("ball", box_in(desk.mask("ball")), "erase")
    stroke(desk)
    assert len(jobs(desk)) == count and desk.session.view().preview == "Result"


def test_after_a_tuning_a_correction_is_grown_and_the_prompts_stay(desk):
    desk.tuned()
    prompts, rod = desk.own_prompts().to_bytes(), desk.mask("rod")
    added = np.zeros(rod.shape, bool)
    added[15:18, 4:8, 40:46] = True
    desk.paint("ball", added)
    stroke(desk)
    assert desk.session.view().preview == CORRECTED and desk.session.view().tune_text == "Retune"
    assert shown(desk, "ball")[added].all()
    changed = shown(desk, "rod") != (rod & ~shown(desk, "ball"))
    assert changed.sum() < 0.1 * rod.sum()  # what borders on the correction may change with it
    desk.apply()
    assert desk.own_prompts().to_bytes() == prompts
    desk.tune()  # goes on from them, with the correction
    assert "start" in desk.last_job.arrays and desk.last_job.said()["ball"][:].sum() >= added.sum()


def test_undoing_an_applied_growth_brings_the_strokes_back(desk):
    stroke(desk)
    desk.apply()
    desk.session.history.undo()
    assert np.array_equal(desk.mask("ball"), desk.strokes == CLASSES["ball"])
    stroke(desk)
    assert desk.session.view().preview == GROWN
    desk.session.history.redo()
    run(desk.session)
    assert not desk.session.view().preview and desk.level == "info"


@pytest.mark.parametrize("what", ["other volume", "removed", "closed", "another scene"])
def test_it_goes_with_what_it_belongs_to(desk, what):
    other = desk.another_volume(paint_it=False)
    desk.session.painted()
    run(desk.session, until=lambda session: session.growing.active is not None)
    if what == "other volume":
        desk.session.inputs.choose_volume(other)
    elif what == "removed":
        desk.scene.RemoveNode(desk.volume)
    elif what == "another scene":
        desk.scene.Clear(0)
    else:
        desk.session.close()
    run(desk.session)
    assert not desk.session.view().preview and not desk.session.busy


def test_a_worker_that_ends_is_one_quiet_line_and_the_next_stroke_works(desk):
    desk.session.painted()
    run(desk.session, until=lambda session: session.growing.active is not None and desk.workers.worker.pid is not None)
    desk.workers.worker._process.kill()
    run(desk.session)
    assert desk.level == "warning" and "nothing is lost" in desk.notice
    stroke(desk)
    assert desk.session.view().preview == GROWN


def test_what_the_worker_refuses_is_one_quiet_line(desk, monkeypatch):
    described = growing.growing_of

    def with_a_bad_name(plan):
        request = described(plan)
        request.asked.classes[" "] = 40
        return request

    monkeypatch.setattr(growing, "growing_of", with_a_bad_name)
    stroke(desk)
    assert desk.level == "warning" and desk.notice.endswith(".") and not desk.session.view().preview


def test_getting_ready_goes_on_after_the_growing(desk):
    desk.session.painted()
    desk.session.growing.prepare()
    run(desk.session)
    run(desk.session, until=lambda session: not session.engine._preparing)
    names = [each.name for each in desk.workers.jobs][-2:]
    assert names == ["grow", "prepare"]


@pytest.mark.parametrize(
    ("code", "applied", "contradicts"),
    [(0, 0, False), (0, 2, False), (1, 0, False), (1, 1, True), (2, 1, False), (2, 0, True), (2, 2, True)]
    + [(3, 1, True), (3, 0, False), (3, 2, False), (4, 2, False), (5, 2, True)],
)
def test_what_is_known_contradicts_a_result(code, applied, contradicts):
    images = [sitk.GetImageFromArray(np.full((2, 3, 4), each, np.uint8)) for each in (code, applied)]
    assert contradicted(images[0], images[1:]) == contradicts
