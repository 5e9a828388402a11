"""What a result would look like: a segmentation of its own in the views, before anything is applied."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

from ..errors import PromptSegError
from ..inference.result import Segmentation
from . import scene_nodes
from .segmentations import apply_result


class Preview:
    """A segmentation node that is drawn in the views, but neither listed nor saved.

    :param opacity: 0 to 1, of the filled classes in slice views and of the surfaces in 3D views.
    """

    def __init__(self, opacity: float = 0.5):
        self._node: Any = None
        self._opacity = min(max(float(opacity), 0.0), 1.0)
        self._visible_3d = False

    @property
    def node(self) -> Any:
        """The ``vtkMRMLSegmentationNode`` that is shown, or None."""
        return self._node if self._node is not None and scene_nodes.alive(self._node.GetScene(), self._node) else None

    @property
    def opacity(self) -> float:
        return self._opacity

    @opacity.setter
    def opacity(self, value: float) -> None:
        self._opacity = min(max(float(value), 0.0), 1.0)
        if self.node is not None and self.node.GetDisplayNode() is not None:
            self.node.GetDisplayNode().SetOpacity(self._opacity)

    @property
    def visible_3d(self) -> bool:
        return self._visible_3d

    @visible_3d.setter
    def visible_3d(self, visible: bool) -> None:
        """Surfaces are made when they are first wanted, and again by each :meth:`show` while they are."""
        self._visible_3d = bool(visible)
        if self.node is not None:
            self._show_3d()

    def show(self, segmentation_node, volume_node, result: Segmentation) -> None:
        """Show a result instead of what was shown, in the place and under the transform of the segmentation.

        Raises :class:`PromptSegError` as :func:`.segmentations.apply_result` does; what was shown then stays.
        """
        scene = segmentation_node.GetScene()
        if self.node is None or self.node.GetScene() is not scene:
            self.remove()
        node, transform_id = self.node or _new_node(scene), segmentation_node.GetTransformNodeID()
        was_under = node.GetTransformNodeID()
        node.SetAndObserveTransformNodeID(transform_id)
        try:
            ids = apply_result(node, volume_node, result)
        except PromptSegError:
            node.SetAndObserveTransformNodeID(was_under)
            if node is not self._node:
                scene_nodes.remove(node)
            raise
        self._node = node
        segmentation = node.GetSegmentation()
        for segment_id in set(segmentation.GetSegmentIDs()) - set(ids.values()):
            segmentation.RemoveSegment(segment_id)
        for info in result.classes:
            segment = segmentation.GetSegment(ids[info.name])
            color = tuple(0.5 + 0.5 * part for part in info.color)  # lighter: the segment below shows what would go
            if not np.allclose(segment.GetColor(), color):
                segment.SetColor(color)
        self._dress()

    def _dress(self) -> None:
        """Make the display node look as a preview does; somebody may have deleted the last one."""
        display = self._node.GetDisplayNode()
        was_modifying = display.StartModify()
        try:
            display.SetSaveWithScene(False)
            display.SetVisibility2DFill(True)
            display.SetOpacity2DFill(1.0)
            display.SetOpacity(self._opacity)
            self._show_3d()
        finally:
            display.EndModify(was_modifying)

    def _show_3d(self) -> None:
        if self._visible_3d:
            self._node.CreateClosedSurfaceRepresentation()
        else:
            self._node.RemoveClosedSurfaceRepresentation()
        if self._node.GetDisplayNode() is not None:
            self._node.GetDisplayNode().SetVisibility3D(self._visible_3d)

    def remove(self) -> None:
        """Take the preview out of the views and the scene."""
        scene_nodes.remove(self.node)
        self._node = None


def _new_node(scene):
    node = slicer.vtkMRMLSegmentationNode()
    node.SetName("PromptSeg preview")
    node.HideFromEditorsOn()  # before it is added, so that no list ever shows it
    node.SetSaveWithScene(False)
    node = scene.AddNode(node)
    # The application looks for the item of every segmentation, and complains of one without. It makes none for nodes
    # hidden from editors, but hides the items of those.
    hierarchy = scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")
    if hierarchy is not None and not hierarchy.GetItemByDataNode(node):
        hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    node.CreateDefaultDisplayNodes()
    return node
