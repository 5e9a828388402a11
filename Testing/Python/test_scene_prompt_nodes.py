"""Prompts in a scene, with real MRML (slicer-core)."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

slicer = pytest.importorskip("slicer")

from harness.prompts_fixtures import some_prompts  # noqa: E402
from harness.scene_files import load_scene, new_scene, save_scene  # noqa: E402
from PromptSegLib.errors import PromptSegError  # noqa: E402
from PromptSegLib.scene.prompt_nodes import (  # noqa: E402
    add_prompts,
    backbone_of,
    link,
    linked,
    prompt_nodes,
    prompts_of,
    update_prompts,
)


def test_prompts_survive_saving_bit_by_bit(tmp_path):
    scene = new_scene()
    prompts = some_prompts("liver", "Läsion, links; 2|a:b", 'a "quoted" <name> & more')
    node = add_prompts(scene, prompts, "Prüfung; 1:2")
    assert not node.GetHideFromEditors() and node.GetSaveWithScene()
    assert prompts_of(node).to_bytes() == prompts.to_bytes()
    other = some_prompts("spleen", seed=1)
    add_prompts(scene, other, "other")
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "S")
    link(segmentation, node)
    save_scene(scene, tmp_path / "a.mrb")
    opened = load_scene(tmp_path / "a.mrb")
    nodes = prompt_nodes(opened)
    assert [prompts_of(each).to_bytes() for each in nodes] == [prompts.to_bytes(), other.to_bytes()]
    assert [each.GetName() for each in nodes] == ["Prüfung; 1:2", "other"]
    assert nodes[0].GetAttribute("PromptSeg.Backbone") == "ct-test"
    assert nodes[0].GetAttribute("PromptSeg.Classes") == ", ".join(prompts.names)
    assert linked(opened.GetFirstNodeByName("S")) is nodes[0]


def test_nodes_of_prompts_and_no_others():
    scene = new_scene()
    scene.AddNewNodeByClass("vtkMRMLTextNode", "note").SetText("a note")
    first = add_prompts(scene, some_prompts("liver"), "mine")
    second = add_prompts(scene, some_prompts("spleen"), "mine")
    assert prompt_nodes(scene) == [first, second]
    assert first.GetName() == "mine" != second.GetName()
    scene.RemoveNode(first)
    assert prompt_nodes(scene) == [second]


def test_updated_prompts():
    scene = new_scene()
    node = add_prompts(scene, some_prompts("liver"), "mine")
    heard = []
    node.AddObserver("ModifiedEvent", lambda *_: heard.append(node.GetAttribute("PromptSeg.Classes")))
    new = replace(some_prompts("liver", "spleen", seed=3), backbone="mr-test")
    update_prompts(node, new)
    assert prompts_of(node).to_bytes() == new.to_bytes()
    assert (node.GetName(), node.GetAttribute("PromptSeg.Backbone")) == ("mine", "mr-test")
    assert heard == ["liver, spleen"]  # once, when all of it is there


def test_the_backbone_of_prompts():
    scene = new_scene()
    node = add_prompts(scene, some_prompts("liver"), "mine")
    assert backbone_of(node) == ("ct-test", "ab" * 32)
    node.RemoveAttribute("PromptSeg.BackboneSHA256")  # as in a scene saved before there was this attribute
    assert backbone_of(node) == ("ct-test", "")


@pytest.mark.parametrize("text", ["", "kein base64!", "AAAA", "truncated"])
def test_damaged_prompts_are_refused(text):
    scene = new_scene()
    node = add_prompts(scene, some_prompts("liver"), "mine")
    if text == "truncated":
        text = base64.b64encode(some_prompts("liver").to_bytes()[:-8]).decode()
    node.SetAttribute("PromptSeg.Content", text)
    with pytest.raises(PromptSegError, match="^Prompts 'mine'.*damaged"):
        prompts_of(node)


@pytest.mark.parametrize("names", [("liver",), tuple(f"Gewächs {n}" for n in range(60))], ids=["one", "many"])
def test_prompts_are_no_file_of_their_own(tmp_path, names):
    scene = new_scene()
    node = add_prompts(scene, some_prompts(*names), "A & B")
    assert names[0].encode("ascii", "replace").decode() in node.GetText() and "ct-test" in node.GetText()
    for _ in range(2):  # also when it was read and is written again
        save_scene(scene, tmp_path / "a & b.mrb")
        scene = load_scene(tmp_path / "a & b.mrb")
        (node,) = prompt_nodes(scene)
        assert node.GetStorageNode() is None and prompts_of(node).to_bytes() == some_prompts(*names).to_bytes()


def test_links_to_prompts():
    scene = new_scene()
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "S")
    assert linked(segmentation) is None
    first = add_prompts(scene, some_prompts("liver"), "first")
    second = add_prompts(scene, some_prompts("spleen"), "second")
    link(segmentation, first)
    link(segmentation, second)
    assert linked(segmentation) is second
    scene.RemoveNode(second)
    assert linked(segmentation) is None
    link(segmentation, first)
    link(segmentation, None)
    assert linked(segmentation) is None
