"""The volumes of the scene: the one that is chosen, and the others, to learn from and to segment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence

from ..scene import node_references

_MAP = "PromptSeg.Map"
_GEOMETRY_ROLE = "referenceImageGeometryRef"  # Slicer's own: the volume that a segmentation was drawn on


@dataclass(frozen=True)
class VolumeRow:
    """A line of the list.

    :param example: whether it teaches.
    :param reason: why it cannot teach, one sentence; "" when it can.
    """

    node: Any
    key: str
    name: str
    example: bool
    reason: str


def volumes(scene) -> list[Any]:
    """The scalar volumes of a scene, but hidden ones and what PromptSeg made."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    nodes = [scene.GetNthNodeByClass(n, "vtkMRMLScalarVolumeNode") for n in range(count)]
    seen = [node for node in nodes if not node.GetHideFromEditors() and not node.GetAttribute(_MAP)]
    return [node for node in seen if not any(node.IsA(f"vtkMRML{kind}VolumeNode") for kind in ("LabelMap", "Tensor"))]


def rows(scene, current, examples: Sequence[Any]) -> tuple[VolumeRow, ...]:
    """All volumes but the current one."""
    found = []
    for node in volumes(scene):
        if node is current:
            continue
        own = node_references.remembered(node)
        reason = "" if own is not None else "This volume has no segmentation yet; choose it above and paint first."
        found.append(VolumeRow(node, node.GetID(), node.GetName() or "", node in examples, reason))
    return tuple(found)


def choose(session, volume) -> None:
    """Another volume, and a segmentation to paint in: its own, else one that was drawn on it, else a new one."""
    session.inputs.choose_volume(volume)
    if volume is not None and node_references.remembered(volume) is None:
        session.inputs.choose_segmentation(_drawn_on(session.scene, volume))
        session.inputs.ensure_segmentation()


def _drawn_on(scene, volume):
    """The first segmentation that has its voxel grid from a volume; None without any."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    nodes = [scene.GetNthNodeByClass(n, "vtkMRMLSegmentationNode") for n in range(count)]
    visible = [node for node in nodes if not node.GetHideFromEditors()]
    return next((node for node in visible if node.GetNodeReference(_GEOMETRY_ROLE) is volume), None)


def input_summary(volume: Any, segmentation: Any, model: str) -> str:
    """What was chosen, in one line."""
    parts = [each.GetName() or "" for each in (volume, segmentation) if each is not None]
    return " \u2192 ".join(parts) + (f" \u00b7 {model}" if model else "")
