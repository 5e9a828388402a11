"""The session refuses with a sentence, and loses nothing when nodes or its worker go."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import pytest

pytest.importorskip("slicer")

from harness.mrml_fixtures import (
    add_volume,
    box_in,
    content,
    nodes_of,
    paint,
    paint_strokes,
    put_under,
    run,
)
from harness.mrml_segments import bent
from harness.mrml_volumes import ras, rotation
from harness.scene_files import new_scene
from harness.scene_nodes import image_from_volume
from harness.session_harness import MOMENTS, Desk, reported
from harness.tiny_model import CLASSES, painted
from PromptSegLib.annotation.classes import ClassInfo
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.inference.result import Segmentation
from PromptSegLib.scene import node_references, scene_nodes
from PromptSegLib.scene.roles import set_role
from PromptSegLib.scene.segmentations import apply_result
from PromptSegLib.session.engine import start_worker
from PromptSegLib.worker.client import Worker

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


@pytest.mark.parametrize("how", ["surfaces", "fractional", "sheared"])
def test_a_segmentation_that_cannot_be_written_is_refused_at_the_click(desk, how):
    key = desk.tuned().own_key()
    if how == "sheared":
        put_under(desk.scene, desk.segmentation, ras(rotation(20) @ np.diag([1, 1, 1.4]) @ rotation(30)))
    else:
        name = {"surfaces": "Closed surface", "fractional": "Fractional labelmap"}[how]
        assert desk.segmentation.GetSegmentation().CreateRepresentation(name)
        desk.segmentation.GetSegmentation().SetSourceRepresentationName(name)
    jobs = len(desk.workers.jobs)
    assert desk.session.view().reasons["tune"]
    desk.session.tune()
    assert desk.level == "error" and not desk.session.busy
    desk.session.segment(key)
    run(desk.session)
    assert desk.level == "error" and "segmentation" in desk.notice.lower() and len(desk.workers.jobs) == jobs


@pytest.mark.parametrize("which", ["volume", "segmentation"])
def test_a_nonlinear_transform(desk, which):
    desk.tuned()
    key = desk.own_key()
    getattr(desk, which).SetAndObserveTransformNodeID(bent(desk.scene))
    before = desk.state()
    assert "non-linear" in desk.session.view().reasons["tune"]
    session = desk.session
    for action in (session.tune, lambda: session.segment(key), session.growing.prepare, session.history.undo):
        action()
        run(desk.session)
    desk.session.history.redo()
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
    desk.session.inputs.choose_volume(empty)
    desk.session.inputs.ensure_segmentation()
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
    scene_nodes.remove(gone)
    run(desk.session)
    view = desk.session.view()
    assert not view.busy and not view.preview and view.notice.level == "warning" and "removed" in view.notice.text
    assert view.reasons["tune"] and view.reasons["apply"]
    assert nodes_of(desk.scene) == [node for node in nodes if node[0] not in left]
    desk.session.inputs.choose_volume(other)
    desk.segmentation, desk.volume = node_references.remembered(other), other
    desk.tuned()


@pytest.mark.parametrize("which", ["volume", "segmentation"])
def test_deleted_while_a_result_waits(desk, which):
    desk.tune()
    scene_nodes.remove(getattr(desk, which))
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
    desk.session.inputs.choose_volume(desk.volume)
    desk.segmentation = desk.session.inputs.ensure_segmentation()
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
    assert not view.busy and view.notice.level == "error"
    assert "nothing is lost" in view.notice.text and "click" in view.notice.text
    assert content(desk.segmentation) == before[0]

    desk.begin_long(MOMENTS["preview"])  # the next click starts a fresh one
    killed(desk)
    run(desk.session)
    # What was shown is as good as it was; only the job is gone.
    assert (
        desk.level == "error" and desk.session.view().preview == "Preview" and content(desk.segmentation) == before[0]
    )
    desk.session.discard()
    assert not desk.session.view().preview and desk.state() == before

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
    desk.session.inputs.choose_volume(desk.volume)
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
    desk.session.inputs.choose_volume(desk.volume)
    before = desk.state()
    desk.session.tune()
    run(desk.session)
    assert desk.level == "error" and "host" in desk.notice and desk.state() == before


def test_prepared_once_for_each_volume(desk):
    jobs = desk.workers.jobs
    start = len(jobs)
    for _ in range(3):
        desk.session.growing.prepare()
    assert [job.name for job in jobs[start:]] == ["prepare"]
    desk.tuned()
    desk.session.growing.prepare()
    assert [job.name for job in jobs[start:]] == ["prepare", "tune"]
    desk.session.inputs.choose_volume(desk.another_volume())
    desk.session.growing.prepare()
    assert jobs[-1].name == "prepare" and len(jobs) == start + 3
    desk.session.tune()  # waits in the worker for what it prepares
    run(desk.session)
    assert desk.session.view().preview == "Result"
