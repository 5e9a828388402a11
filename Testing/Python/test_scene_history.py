"""Undo and redo, with real MRML (slicer-core)."""

from __future__ import annotations

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

from test_scene_segmentations import (  # noqa: E402
    CLASSES,
    labels_like,
    same_voxels,
    user_segmentation,
    voxels_of,
)

from PromptSegLib.inference.result import Segmentation  # noqa: E402
from PromptSegLib.scene import labelmaps  # noqa: E402
from PromptSegLib.scene.history import History  # noqa: E402
from PromptSegLib.scene.links import set_tag, tag  # noqa: E402
from PromptSegLib.scene.segmentations import apply_result, segments_by_name  # noqa: E402
from PromptSegLib.scene.volumes import image_from_volume  # noqa: E402


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
