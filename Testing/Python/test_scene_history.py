"""Undo and redo, with real MRML (slicer-core)."""

from __future__ import annotations

import random

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

from harness.editor_history import Editor, Shown  # noqa: E402
from harness.mrml_segments import CLASSES, labels_like, same_voxels, user_segmentation, voxels_of  # noqa: E402
from harness.scene_nodes import image_from_volume, segments_by_name  # noqa: E402
from PromptSegLib.inference.result import Segmentation  # noqa: E402
from PromptSegLib.scene import labelmaps  # noqa: E402
from PromptSegLib.scene.history import History, OneOrder  # noqa: E402
from PromptSegLib.scene.segment_tags import set_tag, tag  # noqa: E402
from PromptSegLib.scene.segmentations import apply_result  # noqa: E402


def test_an_applied_result_is_undone_and_redone():
    volume, node, first, second, third = user_segmentation()
    history = History(node)
    assert not (history.can_undo or history.can_redo or history.undo() or history.redo())
    before = {one: voxels_of(node, one) for one in (first, second, third)}
    set_tag(node, first, "Applied", "before")
    history.save()
    result = Segmentation(labels_like(image_from_volume(volume)), CLASSES)
    ids = apply_result(node, volume, result, segment_ids={"liver": first}, overwrite=[second], protect=[third])
    set_tag(node, first, "Applied", "after")
    after = {one: voxels_of(node, one) for one in (first, second, third, *ids.values())}
    assert not same_voxels(before[second], after[second])
    assert history.can_undo and not history.can_redo

    assert history.undo()
    assert sorted(node.GetSegmentation().GetSegmentIDs()) == sorted(before)
    assert all(np.array_equal(voxels_of(node, one)[0], before[one][0]) for one in before)
    assert tag(node, first, "Applied") == "before"
    assert history.can_redo and not history.undo()

    assert history.redo()
    assert set(segments_by_name(node)) == {"liver", "tumour", "over", "left kidney", "lesion"}
    assert all(np.array_equal(voxels_of(node, one)[0], after[one][0]) for one in after)
    assert tag(node, first, "Applied") == "after"
    assert not history.redo() and history.can_undo


def test_strokes_painted_in_place_are_undone():
    _, node, first, second, _ = user_segmentation()
    history = History(node)
    before = {one: voxels_of(node, one)[0] for one in (first, second)}
    labelmap = node.GetSegmentation().GetSegment(first).GetRepresentation(labelmaps.BINARY)
    for value in (3, 4):
        history.save()
        labelmaps.voxels_of(labelmap)[0] = value
        labelmap.Modified()
    assert voxels_of(node, second)[0][0].all()
    assert history.undo()
    assert voxels_of(node, first)[0][0].all()
    assert history.undo()
    assert all(np.array_equal(voxels_of(node, one)[0], before[one]) for one in before)


def test_the_oldest_states_go_first():
    _, node, first, *_ = user_segmentation()
    history = History(node, states=3)
    for step in range(6):
        history.save()
        node.GetSegmentation().GetSegment(first).SetName(f"step {step}")
    count = 0
    while history.undo():
        count += 1
    assert 1 <= count <= 3
    assert node.GetSegmentation().GetSegment(first).GetName() == f"step {5 - count}"


def test_a_deleted_node_does_no_harm():
    _, node, first, *_ = user_segmentation()
    history = History(node)
    history.save()
    node.GetSegmentation().RemoveSegment(first)
    node.GetScene().RemoveNode(node)
    del node
    assert history.undo() and not history.undo()


# One order over an editor's states and those of changes made elsewhere


def stroke(node, value):
    """Change voxels, as painting and as a result does."""
    segmentation = node.GetSegmentation()
    labelmap = segmentation.GetSegment(segmentation.GetNthSegmentID(0)).GetRepresentation(labelmaps.BINARY)
    labelmaps.voxels_of(labelmap)[0, 0, 0] = value
    labelmap.Modified()


def state_of(node):
    segmentation = node.GetSegmentation()
    labelmap = segmentation.GetSegment(segmentation.GetNthSegmentID(0)).GetRepresentation(labelmaps.BINARY)
    return int(labelmaps.voxels_of(labelmap)[0, 0, 0])


# What happens, and whether the editor shows the segmentation then: (p)aint, (r)esult, (s)how, (h)ide.
STORIES = [
    "spp",
    "spphr",
    "rs",
    "rsp",
    "rspp",
    "rspphr",
    "spphrs",
    "spphrsp",
    "rrsphrspp",
    "spphrspphrs",
    "rhrsphrhrsp",
]


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("back", [1, 2, 3, 9])
def test_undo_and_redo_go_in_one_order(story, back):
    _, node, *_ = user_segmentation()
    editor = Editor()
    order, states, value = OneOrder(node, Shown(editor, node)), [state_of(node)], 40
    forgotten = 0
    for step in story:
        if step == "s":
            editor.show(node)
        elif step == "h":
            if not order._older.can_undo:
                forgotten = len(states) - 1  # as ever when nothing older is kept: the editor forgets
            order.leave()
            editor.show(None)
        else:
            value += 1
            (editor.kept if step == "p" else order).save()
            stroke(node, value)
            states.append(value)
    if editor.node is None:
        editor.show(node)
    seen = []
    for _ in range(back):
        if order.undo():
            seen.append(state_of(node))
    assert seen == states[forgotten:-1][::-1][: len(seen)] and len(seen) == min(back, len(states) - 1 - forgotten)
    for expected in states[len(states) - len(seen) :]:
        assert order.can_redo and order.redo()
        assert state_of(node) == expected
    assert not order.redo() and state_of(node) == states[-1]
    for expected in seen:  # and once more
        assert order.undo() and state_of(node) == expected


def test_a_stroke_after_going_back_beyond_the_editor_ends_what_could_be_redone():
    _, node, *_ = user_segmentation()
    editor = Editor()
    order = OneOrder(node, Shown(editor, node))
    order.save()  # a result while it is not shown
    stroke(node, 41)
    editor.show(node)
    for value in (42, 43):
        editor.kept.save()
        stroke(node, value)
    for _ in range(3):
        assert order.undo()
    editor.kept.save()
    stroke(node, 50)
    assert not order.can_redo and not order.redo() and state_of(node) == 50
    assert order.undo() and state_of(node) == 0 and not order.undo()
    assert order.redo() and state_of(node) == 50


def test_a_result_elsewhere_leaves_the_editor_and_its_states_alone():
    _, shown, *_ = user_segmentation()
    _, other, *_ = user_segmentation()
    editor = Editor()
    first, second = (OneOrder(node, Shown(editor, node)) for node in (shown, other))
    editor.show(shown)
    editor.kept.save()
    stroke(shown, 41)
    second.save()
    stroke(other, 60)
    assert editor.node is shown and first.can_undo and second.can_undo
    assert first.undo() and state_of(shown) == 0 and state_of(other) == 60
    assert second.undo() and state_of(other) == 0 and state_of(shown) == 0


class Walk:
    """Two segmentations and one editor, with what each must be after every step.

    :ivar states: of each segmentation, those that can be gone back and forth to; ``at``: where each is.
    """

    def __init__(self):
        self.editor, self.value, self.log = Editor(), 30, []
        self.nodes = [user_segmentation()[1] for _ in range(2)]
        self.orders = [OneOrder(node, Shown(self.editor, node)) for node in self.nodes]
        self.states, self.at, self.first = [[state_of(node)] for node in self.nodes], [0, 0], [0, 0]

    @property
    def shown(self):
        return next((n for n, node in enumerate(self.nodes) if self.editor.node is node), None)

    def show(self, which):
        left = self.shown
        if which == left:
            return
        if left is not None:
            order = self.orders[left]
            if not (order._older.can_undo or order._older.can_redo):  # as ever when nothing older is kept
                self.first[left] = self.at[left]
                del self.states[left][self.at[left] + 1 :]
            order.leave()
        self.editor.show(None if which is None else self.nodes[which])

    def change(self, which, save):
        save()
        self.value += 1
        stroke(self.nodes[which], self.value)
        del self.states[which][self.at[which] + 1 :]
        self.states[which].append(self.value)
        self.at[which] += 1

    def go(self, which, by):
        wanted = self.at[which] + by
        possible = self.first[which] <= wanted < len(self.states[which])
        order = self.orders[which]
        assert (order.undo() if by < 0 else order.redo()) == possible, self.log
        self.at[which] += by * possible
        now = [states[at] for states, at in zip(self.states, self.at)]
        assert [state_of(node) for node in self.nodes] == now, self.log

    def step(self, rng):
        which, action = rng.randrange(2), rng.choice("pprrsuudh")
        self.log.append((action, which))
        if action == "p" and self.shown is not None:
            self.change(self.shown, self.editor.kept.save)
        elif action == "r":
            self.change(which, self.orders[which].save)
        elif action in "sh":
            self.show(which if action == "s" else None)
        elif action in "ud":
            self.go(which, -1 if action == "u" else 1)


@pytest.mark.parametrize("seed", range(60))
def test_any_order_of_strokes_results_and_views(seed):
    """(p)aint, a (r)esult, (s)how, (h)ide, (u)ndo, re(d)o, of either of two segmentations."""
    walk, rng = Walk(), random.Random(seed)
    for _ in range(14):
        walk.step(rng)
