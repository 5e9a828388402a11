"""Several volumes, jobs and previews beside each other: none of them costs another, and what is said is true."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("slicer")

from harness.mrml_fixtures import add_volume, box_in, mask_of, nodes_of, paint, paint_strokes, run
from harness.prompts_fixtures import some_prompts
from harness.scene_nodes import segments_by_name, volume_from_image
from harness.session_harness import reported
from PromptSegLib.annotation.classes import describe
from PromptSegLib.gui import volume_list
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.inference.result import Segmentation
from PromptSegLib.models import catalogue
from PromptSegLib.scene import node_references
from PromptSegLib.session import results as results_module
from PromptSegLib.session.actions import Notice
from PromptSegLib.session.job import Background, State
from PromptSegLib.worker import contract
from PromptSegLib.worker.client import GONE
from PromptSegLib.worker.contract import Reply


def answer(request) -> Reply:
    """What is painted of each class, and prompts of them where it was a tuning."""
    if isinstance(request, contract.Segment):
        grid = request.strokes.grid if request.strokes else Grid((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
        voxels = request.strokes.voxels if request.strokes else np.ones((4, 4, 4))
        infos = tuple(describe(name, value) for name, value in request.prompts.values.items())
        unsure = grid.image(np.zeros(voxels.shape, np.float32))
        return Reply(Segmentation(grid.image(voxels.astype(np.uint8)), infos, None, unsure))
    example = request.example if isinstance(request, contract.Grow) else request.examples[0]
    voxels = np.where(np.isin(example.voxels, list(request.classes.values())), example.voxels, 0).astype(np.uint8)
    infos = tuple(describe(name, value) for name, value in request.classes.items())
    notes = ("Held-back slices agree to 70 %.",)
    unsure = example.grid.image(np.zeros(voxels.shape, np.float32))
    prompts = None
    if isinstance(request, contract.Tune):
        prompts = replace(some_prompts(*request.classes), sha256=catalogue.find().sha256)
    return Reply(Segmentation(example.grid.image(voxels), infos, None, unsure, notes=notes), prompts)


def at_once(request) -> list:
    """Everything but learning, which goes on."""
    if isinstance(request, contract.Prepare):
        return [("done", None)]
    if isinstance(request, contract.Learn):
        return [("report", 0.2)]
    return [("report", 0.5), ("preview", answer(request)), ("done", answer(request))]


def never_done(request) -> list:
    """A tuning goes on after its first preview."""
    if isinstance(request, contract.Tune):
        return [("report", 0.5), ("preview", answer(request))]
    return at_once(request)


def another(session, name: str = "Other"):
    """A volume without a segmentation."""
    return add_volume(session.scene, name, seed=5)


def painted_on(session, volume, reference):
    """A volume's own segmentation, painted."""
    own = node_references.new_segmentation(session.scene, volume, f"{volume.GetName()} strokes")
    node_references.remember(volume, own)
    paint_strokes(own, volume, reference)
    return own


def three_painted(session) -> list:
    """Further volumes with segmentations of their own."""
    found = []
    for name in ("One", "Two", "Three"):
        volume, reference = another(session, name)
        painted_on(session, volume, reference)
        found.append(volume)
    return found


def tuned_session(session_with, script=at_once):
    """With a result that was applied; its worker, and the key of its prompts."""
    session, worker = session_with(script)
    session.tune()
    run(session)
    session.apply()
    run(session)
    (key,) = [row.key for row in session.view().prompts if row.current]
    return session, worker, key


def is_at(volume):
    """Whether a session's job is on a volume."""
    return lambda session: session.jobs.active is not None and session.jobs.active.job.volume is volume


def waiting(session) -> str:
    return session.view().preview


def grown(worker) -> int:
    return sum(isinstance(each, contract.Grow) for each in worker.asked)


# A preview that waits


def test_the_panel_says_that_a_preview_waits_and_with_what(session_with):
    session, _ = session_with(at_once)
    here = session.inputs.volume
    session.tune()
    run(session)
    volume_list.choose(session, another(session)[0])
    assert "The preview waits with 'CT'" in session.view().notice.text
    volume_list.choose(session, here)
    assert "waited here" in session.view().notice.text and "agree to 70 %" in session.view().notice.text
    session.inputs.choose_segmentation(None)  # what New segmentation does
    session.inputs.ensure_segmentation()
    said = session.view().notice.text
    assert "waits with 'CT segmentation'" in said and "stopped" not in said


def test_one_segmentation_of_two_volumes_has_two_previews(session_with):
    session, _ = session_with(at_once)
    first, segmentation = session.inputs.volume, session.inputs.segmentation
    second, _reference = another(session)
    for volume in (first, second):
        session.inputs.choose_volume(volume)
        session.inputs.choose_segmentation(segmentation)
        session.tune()
        run(session)
        assert waiting(session) == "Result"
    for volume in (first, second):
        session.inputs.choose_volume(volume)
        session.inputs.choose_segmentation(segmentation)
        assert waiting(session) == "Result" and session.results.result.job.volume is volume


def test_segmenting_other_volumes_leaves_the_preview(session_with):
    session, _worker, key = tuned_session(session_with)
    session.tune()
    run(session)
    assert waiting(session) == "Result"
    other, reference = another(session)
    own = painted_on(session, other, reference)
    session.segment(key, [other])
    assert waiting(session) == "Result" and session.state is not State.IDLE
    run(session)
    assert waiting(session) == "Result" and not session.view().busy
    assert mask_of(own, other, "ball").any()


def test_a_refused_tuning_leaves_the_preview(session_with):
    session, _ = session_with(at_once)
    session.tune()
    run(session)
    segments = session.inputs.segmentation.GetSegmentation()
    segments.GetSegment(segments_by_name(session.inputs.segmentation)["ball"]).SetName("rod")
    session.tune()
    assert session.view().notice.level == "error" and waiting(session) == "Result"


# What nobody corrected


@pytest.mark.parametrize("begun", ["grown", "tuned"])
def test_whatever_was_applied_stays_where_nobody_corrected_it(session_with, begun):
    """Also where there are no prompts yet to go on from, and where a structure is new."""
    session, worker = session_with(at_once)
    volume, segmentation = session.inputs.volume, session.inputs.segmentation
    session.painted() if begun == "grown" else session.tune()
    run(session)
    session.apply()
    run(session)
    ball = mask_of(segmentation, volume, "ball")
    paint(segmentation, volume, box_in(ball).astype(np.uint8), {"ball": 1}, "erase")
    new = np.zeros(ball.shape, np.uint8)
    new[1, 1:3, 1:3] = 1
    paint(segmentation, volume, new, {"new": 1})
    session.tune()
    run(session)
    request = worker.asked[-1]
    assert isinstance(request, contract.Tune) and set(request.wanted) >= {"ball", "new"}
    accepted = sitk.GetArrayFromImage(request.accepted)
    assert {request.classes.get("ball"), request.classes.get("new")} & set(np.unique(accepted)) == {
        request.classes["ball"]
    }


# What was grown


def test_cancel_brings_back_what_was_grown(session_with):
    session, worker = session_with(never_done)
    session.painted()
    run(session)
    before = session.results.result
    session.tune()
    run(session, until=lambda _: waiting(session) == "Preview")
    session.cancel()
    assert session.results.result is before and session.view().notice.text == "Cancelled; nothing was changed."
    asked = grown(worker)
    run(session)
    assert grown(worker) == asked


def test_what_is_painted_while_something_else_runs_is_grown_afterwards(session_with):
    session, worker, _key = tuned_session(session_with)
    session.learn()
    run(session, until=reported)
    other, reference = another(session)
    volume_list.choose(session, other)
    assert session.state is State.LEARNING
    paint_strokes(session.inputs.segmentation, other, reference)
    session.painted()
    assert not grown(worker) and session.state is State.LEARNING
    session.cancel()
    run(session)
    assert grown(worker) == 1 and session.view().shows == "grown"


def test_strokes_during_a_cancelled_tuning_are_grown(session_with):
    session, worker = session_with(never_done)
    session.tune()
    run(session, until=lambda _: waiting(session) == "Preview")
    ball = mask_of(session.inputs.segmentation, session.inputs.volume, "ball")
    paint(session.inputs.segmentation, session.inputs.volume, box_in(ball).astype(np.uint8), {"ball": 1}, "erase")
    session.painted()
    session.cancel()
    run(session)
    assert session.view().shows == "grown" and grown(worker) == 1


# Jobs for other volumes


@pytest.mark.parametrize("what", ["cancel", "apply", "discard"])
def test_learning_and_a_preview_of_another_volume_do_not_meet(session_with, what):
    session, _ = session_with(at_once)
    here = session.inputs.volume
    other, reference = another(session)
    volume_list.choose(session, other)
    paint_strokes(session.inputs.segmentation, other, reference)
    session.tune()
    run(session)
    volume_list.choose(session, here)
    session.tune()
    run(session)
    session.apply()
    run(session)
    session.learn()
    run(session, until=reported)
    volume_list.choose(session, other)
    assert waiting(session) == "Result" and session.view().busy
    getattr(session, what)()
    if what == "cancel":
        assert not session.view().busy and waiting(session) == "Result"
    else:
        assert session.view().busy and session.state is State.LEARNING and not waiting(session)


def test_a_batch_goes_on_while_a_finished_volume_is_looked_at(session_with):
    session, worker, key = tuned_session(session_with)
    volumes = three_painted(session)
    session.segment(key, volumes)
    run(session, until=is_at(volumes[1]))
    session.inputs.choose_volume(volumes[0])
    assert not session.view().notice.text
    run(session)
    assert sum(isinstance(each, contract.Segment) for each in worker.asked) == 3


def test_a_cancelled_batch_says_which_volumes_have_their_results(session_with):
    segmented = []

    def script(request):
        segmented.extend([request] if isinstance(request, contract.Segment) else [])
        return [("report", 0.1)] if len(segmented) == 2 else at_once(request)

    session, _worker, key = tuned_session(session_with, script)
    volumes = three_painted(session)
    session.segment(key, volumes)
    run(session, until=is_at(volumes[1]))
    run(session, until=reported)
    session.cancel()
    assert session.view().notice.text == "Stopped after 1 of 3 volumes; those have their results."


def test_a_refused_volume_leaves_nothing_behind(session_with):
    session, _worker, key = tuned_session(session_with)
    flat = volume_from_image(session.scene, sitk.Image([20, 20, 1], sitk.sitkInt16), "flat")
    session.inputs.choose_volume(flat)
    before = nodes_of(session.scene)
    session.segment(key)
    run(session)
    assert session.view().notice.level == "error" and nodes_of(session.scene) == before


# Clean-up in a thread


@pytest.fixture
def held(monkeypatch):
    """Clean-ups that wait until they may go on; what each was asked for."""
    go, asked = threading.Event(), []

    def slow(labels, values, *chosen):
        asked.append(chosen[:3])
        go.wait(60)
        return labels

    monkeypatch.setattr(results_module, "clean", slow)
    yield go, asked
    go.set()


def test_nobody_waits_for_a_clean_up(session_with, held):
    """A newer result takes the place of one that is still being cleaned up, and Apply takes none but the last."""
    (session, _), (go, made) = session_with(at_once), held
    session.parameters.fillHoles = True
    session.painted()
    run(session, until=lambda _: session.results.cleaning.wanted)
    ball = mask_of(session.inputs.segmentation, session.inputs.volume, "ball")
    paint(session.inputs.segmentation, session.inputs.volume, box_in(ball).astype(np.uint8), {"ball": 1}, "erase")
    session.painted()  # would wait for good
    run(session, until=lambda _: not session.growing.busy)
    assert session.view().reasons["apply"] and not session.view().reasons["discard"]
    session.tune()
    run(session, until=lambda _: not session.view().busy)
    assert session.results.cleaning.wanted and len(made) == 1
    go.set()
    run(session)
    assert waiting(session) == "Result" and not session.view().reasons["apply"]
    assert len(made) == 2  # of the first, and of the last


def test_a_result_that_is_being_cleaned_waits_as_it_will_be(session_with, held):
    session, _ = session_with(at_once)
    here, (go, _asked) = session.inputs.volume, held
    session.parameters.fillHoles = True
    session.tune()
    run(session, until=lambda _: session.results.cleaning.wanted)
    session.inputs.choose_volume(another(session)[0])
    go.set()
    run(session)
    session.inputs.choose_volume(here)
    run(session)
    assert waiting(session) == "Result"


def cleaning(session) -> bool:
    return session.results.cleaning.wanted is not None and not session.view().busy


def erase_some(session) -> None:
    segmentation, volume = session.inputs.segmentation, session.inputs.volume
    paint(segmentation, volume, box_in(mask_of(segmentation, volume, "ball")).astype(np.uint8), {"ball": 1}, "erase")


def test_a_stroke_loses_no_result_that_is_being_cleaned(session_with, held):
    session, worker, key = tuned_session(session_with)
    session.parameters.fillHoles = True
    session.segment(key)
    erase_some(session)
    session.painted()
    run(session, until=cleaning)
    session.poll()
    session.painted()
    held[0].set()
    run(session)
    assert waiting(session) == "Result" and not grown(worker)


def test_clean_up_choices_count_while_it_cleans_up(session_with, held):
    session, _worker, key = tuned_session(session_with)
    session.parameters.fillHoles = True
    session.segment(key)
    run(session, until=cleaning)
    session.parameters.fillHoles, session.parameters.largestComponent = False, True
    session.results.clean_up()
    held[0].set()
    run(session)
    assert held[1] == [(False, True, 0.0), (True, False, 0.0)] and waiting(session) == "Result"


def test_a_clean_up_that_fails_leaves_the_result_as_it_came(session_with, monkeypatch):
    def broken(*_args):
        raise MemoryError

    monkeypatch.setattr(results_module, "clean", broken)
    session, _worker, key = tuned_session(session_with)
    session.parameters.fillHoles = True
    session.segment(key)
    run(session)
    assert waiting(session) == "Result" and not session.view().reasons["apply"]
    assert "could not be cleaned up" in session.view().notice.text


@pytest.mark.parametrize("what", ["undo", "live off", "volume removed"])
def test_what_is_being_cleaned_goes_with_what_it_belongs_to(session_with, held, what):
    session, worker, key = tuned_session(session_with)
    session.parameters.fillHoles = True
    if what == "live off":
        erase_some(session)
        session.painted()
    else:
        session.segment(key)
    run(session, until=cleaning)
    if what == "undo":
        session.history.undo()
    elif what == "live off":
        session.parameters.live = False
        session.live_changed()
    else:
        session.scene.RemoveNode(session.inputs.volume)
    held[0].set()
    run(session)
    assert not waiting(session) and session.view().reasons["apply"].startswith("There is no preview")


def test_a_segmentation_that_was_made_for_a_result_goes_with_it(session_with, held):
    session, _worker, key = tuned_session(session_with)
    session.parameters.fillHoles = True
    other, _reference = another(session)
    session.inputs.choose_volume(other)
    before = nodes_of(session.scene)
    session.segment(key)
    run(session, until=cleaning)
    assert len(nodes_of(session.scene)) > len(before)
    session.discard()
    held[0].set()
    run(session)
    assert [node[2] for node in nodes_of(session.scene) if node not in before] == []


def test_a_worker_that_ends_loses_no_stroke_for_growing(session_with):
    def script(request):
        gone = [("report", 0.5), *[("report", 0.6)] * 3, (GONE, "It ended.")]
        return gone if isinstance(request, contract.Tune) else at_once(request)

    session, worker = session_with(script)
    session.painted()
    run(session)
    session.tune()
    run(session, until=reported)
    erase_some(session)
    session.painted()
    run(session, until=lambda _: grown(worker) == 2)
    assert not session.view().busy


def test_cancel_brings_back_nothing_of_a_segment_that_is_gone(session_with):
    session, worker = session_with(never_done)
    session.painted()
    run(session)
    session.tune()
    run(session, until=lambda _: session.view().busy and session.view().share > 0)
    segmentation = session.inputs.segmentation
    segmentation.GetSegmentation().RemoveSegment(segments_by_name(segmentation)["rod"])
    session.painted()
    session.cancel()
    run(session)
    assert [each.name for each in session.results.shown.classes] == ["ball"] and grown(worker) == 2


def test_work_in_the_background_keeps_its_order_and_leaves_out_what_is_not_wanted():
    background, taken = Background(), []

    def then(value):
        taken.append(value)
        return Notice(str(value))

    for value in range(4):
        background.start(lambda value=value: value, then, lambda value=value: value != 2)
    assert background.finish() == Notice("3") and taken == [0, 1, 3] and not background.working
    background.start(lambda: 4, then)
    background.drop()
    assert not background.working and background.poll() is None and taken == [0, 1, 3]


def test_a_bug_in_taking_a_result_ends_the_job(session_with, monkeypatch):
    session, _ = session_with(at_once)

    def broken(*_args):
        raise OverflowError("too much")

    monkeypatch.setattr(session.results, "arrive", broken)
    session.tune()
    run(session)
    assert not session.view().busy and "too much" in session.view().notice.text
