"""Roles of segments, with real MRML (slicer-core)."""

from __future__ import annotations

import pytest

slicer = pytest.importorskip("slicer")

from harness.mrml_segments import user_segmentation  # noqa: E402
from harness.scene_files import load_scene, save_scene  # noqa: E402
from PromptSegLib.errors import PromptSegError  # noqa: E402
from PromptSegLib.scene.roles import ROLES, role_of, set_role  # noqa: E402


def test_roles_follow_names_until_they_are_set():
    _, node, first, second, _ = user_segmentation()
    segment = node.GetSegmentation().GetSegment(second)
    assert role_of(node, first) == role_of(node, second) == "tune"
    for name in ("background", "Background", " BACKGROUND "):
        segment.SetName(name)
        assert role_of(node, second) == "background"
    set_role(node, second, "tune")
    assert role_of(node, second) == "tune"
    segment.SetTag("PromptSeg.Role", "from a later version")
    assert role_of(node, second) == "background"


def test_roles_are_saved_with_the_scene(tmp_path):
    _, node, *ids = user_segmentation(aligned=True)
    chosen = dict(zip(ids, ROLES[1:]))
    for one, role in chosen.items():
        set_role(node, one, role)
    save_scene(node.GetScene(), tmp_path / "a.mrb")
    again = load_scene(tmp_path / "a.mrb").GetFirstNodeByName("Segmentation")
    assert {one: role_of(again, one) for one in ids} == chosen


def test_unknown_roles_and_segments_are_refused():
    _, node, first, *_ = user_segmentation()
    with pytest.raises(PromptSegError, match="'lock' is not a role"):
        set_role(node, first, "lock")
    assert role_of(node, first) == "tune"
    for call in (lambda: set_role(node, "nobody", "tune"), lambda: role_of(node, "nobody")):
        with pytest.raises(PromptSegError, match="no segment with ID 'nobody'"):
            call()
