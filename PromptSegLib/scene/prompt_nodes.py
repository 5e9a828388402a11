"""Prompts in a scene: text nodes, saved with it and seen in the Data module.

The prompts are an attribute, and the text says what they are: a long text would be a file of the saved scene, called
as the node, and Slicer does not escape every file name in the scene's XML: one with "&" could never be opened again.
"""

from __future__ import annotations

import base64
import binascii
import contextlib

import slicer

from ..errors import PromptSegError
from ..prompts.store import Prompts
from ..prompts.teachers import taught_by
from .placement import in_xml

PROMPTS_ROLE = "PromptSegPrompts"
_MARK = "PromptSeg.Prompts"
_BACKBONE = "PromptSeg.Backbone"
_SHA256 = "PromptSeg.BackboneSHA256"
_CLASSES = "PromptSeg.Classes"
_TAUGHT = "PromptSeg.Taught"
_CONTENT = "PromptSeg.Content"
_LONGEST_TEXT = 200  # a text node of 256 letters gets a file


def add_prompts(scene, prompts: Prompts, name: str):
    """A new ``vtkMRMLTextNode`` with prompts; its name is made unique in the scene."""
    node = slicer.vtkMRMLTextNode()
    name = in_xml(name)
    node.SetName(scene.GenerateUniqueName(name) if scene.GetFirstNodeByName(name) else name)
    node.SetAttribute(_MARK, "1")
    update_prompts(node, prompts)
    return scene.AddNode(node)


def update_prompts(node, prompts: Prompts) -> None:
    """Put other prompts into a node of :func:`add_prompts`; its name stays.

    What a list shows is in the attributes "PromptSeg.Backbone", "PromptSeg.BackboneSHA256", "PromptSeg.Classes"
    (names, joined by commas) and "PromptSeg.Taught" (what they have learned from, in words).
    """
    was_modifying = node.StartModify()
    try:
        node.SetAttribute(_CONTENT, base64.b64encode(prompts.to_bytes(whole=True)).decode("ascii"))
        node.SetText(_text_of(prompts))
        node.SetAttribute(_BACKBONE, prompts.backbone)
        node.SetAttribute(_SHA256, prompts.sha256)
        node.SetAttribute(_CLASSES, ", ".join(prompts.names))
        node.SetAttribute(_TAUGHT, in_xml(taught_by(prompts)))  # names of images of anybody
    finally:
        node.EndModify(was_modifying)


def _text_of(prompts: Prompts) -> str:
    """What somebody who opens the node reads; in letters that take one byte each, as their number counts."""
    text = f"PromptSeg prompts of the model {prompts.backbone}: {', '.join(prompts.names)}"
    plain = text.encode("ascii", "replace").decode("ascii")
    return plain if len(plain) <= _LONGEST_TEXT else f"{plain[: _LONGEST_TEXT - 3]}..."


def renew(scene) -> None:
    """Keep prompts that an earlier version kept as the text of their nodes as they are kept now."""
    for node in prompt_nodes(scene):
        if not node.GetAttribute(_CONTENT):
            with contextlib.suppress(PromptSegError):  # damaged ones stay as they are
                update_prompts(node, prompts_of(node))
                storage = node.GetStorageNode()
                if storage is not None:  # with it, the text would be a file
                    node.GetScene().RemoveNode(storage)


def backbone_of(node) -> tuple[str, str]:
    """Name and SHA-256 of the backbone that the prompts in a node belong to, without decoding them; "" where the node
    does not say."""
    return node.GetAttribute(_BACKBONE) or "", node.GetAttribute(_SHA256) or ""


def taught(node) -> str:
    """What the prompts in a node have learned from, in words; "" where the node does not say."""
    return node.GetAttribute(_TAUGHT) or ""


def prompts_of(node) -> Prompts:
    """The prompts in a node, exactly as they were put in. Raises :class:`PromptSegError` when they are damaged."""
    content = bytes_of(node)
    try:
        return Prompts.from_bytes(content, whole=True)
    except PromptSegError as error:
        raise PromptSegError("Prompts '{node}': {error}", node=node.GetName(), error=error) from error


def bytes_of(node) -> bytes:
    """What a file of the prompts in a node holds, not looked at. Raises :class:`PromptSegError` for damaged text."""
    try:
        return base64.b64decode(node.GetAttribute(_CONTENT) or node.GetText() or "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise PromptSegError(
            "Prompts '{node}' are damaged; load them from a file again.", node=node.GetName()
        ) from error


def prompt_nodes(scene) -> list:
    """All nodes of a scene that hold prompts, in the order in which they were added."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLTextNode")
    nodes = (scene.GetNthNodeByClass(n, "vtkMRMLTextNode") for n in range(count))
    return [node for node in nodes if node.GetAttribute(_MARK) == "1"]


def link(segmentation_node, prompts_node) -> None:
    """Make prompts the ones that a segmentation goes on with; None for none. Saved with the scene."""
    prompts_id = prompts_node.GetID() if prompts_node is not None else None
    if segmentation_node.GetNodeReferenceID(PROMPTS_ROLE) != prompts_id:
        segmentation_node.SetNodeReferenceID(PROMPTS_ROLE, prompts_id)


def linked(segmentation_node):
    """The node with the prompts that a segmentation goes on with, or None when there is none (any more)."""
    node = segmentation_node.GetNodeReference(PROMPTS_ROLE)
    return node if node is not None and node.GetAttribute(_MARK) == "1" else None
