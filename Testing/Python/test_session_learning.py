"""Prompts for other volumes: what a session lets them learn from what was applied, and what may happen meanwhile."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer")

from harness.mrml_fixtures import box_in, run
from harness.prompts_fixtures import some_prompts
from harness.session_harness import LONG, Desk
from harness.tiny_model import CLASSES
from PromptSegLib.scene import prompt_nodes
from PromptSegLib.session.applied import learned_node, take_learned
from PromptSegLib.session.job import JobKind
from PromptSegLib.worker.client import Event
from PromptSegLib.worker.contract import Taught
from PromptSegLib.worker.packing import grid_of


def learned_row(desk: Desk):
    found = [row for row in desk.session.view().prompts if row.name.endswith("for other volumes")]
    assert len(found) <= 1
    return found[0] if found else None


def jobs(desk: Desk) -> list:
    """What this desk's worker was asked to learn; all desks share the list."""
    return [each for each in desk.workers.jobs[desk.before :] if each.name == JobKind.LEARN.value]


@pytest.fixture(autouse=True)
def before(desk) -> None:
    desk.before = len(desk.workers.jobs)


def test_prompts_learn_from_what_was_applied_and_segment_another_volume(desk):
    session = desk.session
    session.learn()
    assert desk.level == "error" and "Apply a result first" in desk.notice and not jobs(desk)
    desk.tuned()
    own = desk.own_prompts().to_bytes()
    corrected = box_in(desk.mask("ball"))
    desk.paint("ball", corrected, "erase")
    masks, before = {name: desk.mask(name) for name in CLASSES}, desk.state()[0]

    session.other_volumes()
    assert session.view().busy and session.view().tune_text == "Cancel"
    run(session)
    assert desk.level == "info", desk.notice
    assert "have learned from the complete segmentation of" in desk.notice and desk.volume.GetName() in desk.notice
    assert not session.view().preview and desk.state()[0] == before and desk.own_prompts().to_bytes() == own

    # All of the segmentation as it is now was taught, and where the user had painted or erased was told.
    (job,) = jobs(desk)
    (example,) = job.values["examples"]
    assert example["complete"] and not job.values.get("start")
    taught = job.arrays["annotation0"]
    for name, value in job.values["classes"].items():
        assert int((taught == value).sum()) == int(masks[name].sum())
    assert grid_of(example["painted"]).shape == job.arrays["painted0"].shape
    assert int(job.arrays["painted0"].sum()) >= int(corrected.sum())

    row = learned_row(desk)
    assert row is not None and not row.current and row.taught.startswith("the complete segmentation of")
    prompts = prompt_nodes.prompts_of(desk.scene.GetNodeByID(row.key))
    assert set(prompts.names) == set(CLASSES) and not prompts.strokes
    other = desk.another_volume(paint_it=False)
    session.segment(row.key, [other])
    run(session)
    assert desk.level == "info" and "Segmented Other" in desk.notice


def test_nothing_is_learned_twice_and_a_new_result_is_learned_anew(desk):
    session = desk.tuned().session
    session.other_volumes()
    run(session)
    key = learned_row(desk).key
    session.other_volumes()
    assert not session.view().busy and len(jobs(desk)) == 1
    more = np.zeros(desk.strokes.shape, bool)
    more[15:18, 4:8, 40:46] = True
    desk.paint("rod", more)
    desk.tune()
    session.other_volumes()  # a preview waits: it is not what was accepted
    assert len(jobs(desk)) == 1
    desk.apply()
    session.other_volumes()
    run(session)
    assert len(jobs(desk)) == 2 and learned_row(desk).key == key


def test_what_a_clone_learns_leaves_what_its_original_has_learned(desk):
    def learn(segmentation, name: str) -> bytes:
        values, arrays = Taught(some_prompts(name)).pack()
        take_learned(desk.scene, segmentation, name, Event("done", 1, values, arrays))
        return prompts_of(segmentation)

    def prompts_of(segmentation) -> bytes:
        return prompt_nodes.bytes_of(learned_node(segmentation))

    first = learn(desk.segmentation, "ball")
    clone = type(desk.segmentation)()
    clone.Copy(desk.segmentation)
    clone.SetName("clone")
    clone = desk.scene.AddNode(clone)
    assert learn(clone, "rod") != first and prompts_of(desk.segmentation) == first
    assert learned_node(clone).GetName() == "clone for other volumes"
    node = learned_node(clone)
    learn(clone, "ball")
    assert learned_node(clone) is node  # its own is replaced
    node.RemoveNodeReferenceIDs("PromptSegLearner")  # as in a scene of an earlier version
    learn(clone, "rod")
    assert learned_node(clone) is node


def test_further_examples_teach_where_a_result_was_applied_to_them(desk):
    session = desk.tuned().session
    painted = desk.another_volume("Only painted")
    session.inputs.add_example(painted)
    session.learn()
    run(session)
    assert [each["name"] for each in jobs(desk)[-1].values["examples"]] == [desk.volume.GetName()]
    first = desk.volume
    session.inputs.choose_volume(painted)
    desk.tune()
    desk.apply()
    session.inputs.add_example(first)
    session.learn()
    run(session)
    names = [each["name"] for each in jobs(desk)[-1].values["examples"]]
    assert names == ["Only painted", first.GetName()]
    assert "segmentations of Only painted and" in desk.notice


def test_cancelling_undoing_and_turning_to_another_volume(desk):
    session = desk.tuned().session
    session.parameters.seconds = LONG
    before = desk.state()
    session.learn()
    run(session, until=lambda session: session.view().share > 0)
    session.cancel()
    assert desk.notice == "Cancelled; nothing was changed." and desk.state() == before
    run(session)
    assert learned_row(desk) is None

    other = desk.another_volume(paint_it=False)
    session.learn()
    run(session, until=lambda session: session.view().share > 0)
    session.inputs.choose_volume(other)  # it goes on
    assert session.view().busy
    session.inputs.choose_volume(desk.volume)
    session.history.of(desk.segmentation).undo()  # by the editor's own button
    session.history.segmentation_changed()
    assert not session.view().busy and "no longer there" in desk.notice
    run(session)
    assert learned_row(desk) is None
