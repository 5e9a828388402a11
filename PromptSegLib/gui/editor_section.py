"""Slicer's own Segment Editor, without what stands above it: its effects and their options."""

from __future__ import annotations

from typing import TYPE_CHECKING

import qt
import slicer

from ..scene.slice_views import bring_into_view
from ..session.actions import View

if TYPE_CHECKING:
    from .panel import Panel

_TAG = "PromptSegEditor"
# What strokes and corrections need, in one row of buttons: the Segment Editor module has the others.
_EFFECTS = ("Threshold", "Paint", "Draw", "Erase", "Scissors", "Islands", "Smoothing")
# Its list of segments with what belongs to that, and undo: the panel has its own, which never scroll.
_INSTEAD = (
    "SegmentsTableResizableFrame",
    "SegmentsTableView",
    "AddSegmentButton",
    "RemoveSegmentButton",
    "Show3DButton",
    "UndoRedoGroupBox",
)

_FILLED = ("verticalLayout_3", "verticalLayout")  # what were columns, with room at their ends
_AROUND = 26  # pixels left and right of the options of an effect


class EditorSection:
    """Painting, with Slicer's own Segment Editor."""

    def __init__(self, panel: Panel):
        self.panel, self.editor = panel, panel.ui.segmentEditorWidget
        # First the parameter set, then the scene: the editor keeps its selections there.
        self._select_editor_node()
        self.editor.setMRMLScene(panel.scene)
        self.editor.setEffectNameOrder(_EFFECTS)
        self.editor.unorderedEffectsVisible = False
        self._make_narrow()
        self._keep_width()

    def enter(self) -> None:
        """Keys and mouse of the views go to the editor while the module is open."""
        self._select_editor_node()
        self.editor.setupViewObservations()
        self.editor.installKeyboardShortcuts()
        self.editor.updateWidgetFromMRML()

    def exit(self) -> None:
        self.editor.setActiveEffect(None)
        self.editor.uninstallKeyboardShortcuts()
        self.editor.removeViewObservations()

    def scene_closing(self) -> None:
        self.editor.setSegmentationNode(None)
        self.editor.removeViewObservations()

    def render(self, view: View) -> None:
        parameters = self.panel.parameters
        if self.editor.segmentationNode() is not parameters.segmentation:
            self.editor.setSegmentationNode(parameters.segmentation)
        if self.editor.sourceVolumeNode() is not parameters.volume:
            self.editor.setSourceVolumeNode(parameters.volume)
            if parameters.volume is not None:
                bring_into_view(self.panel.scene, parameters.volume)

    def _make_narrow(self) -> None:
        """One row of effects with their options below it, not beside: so wide would be no panel on a laptop.

        What another version of the editor calls otherwise stays as it is there.
        """
        self.editor.effectButtonStyle = qt.Qt.ToolButtonIconOnly
        self.editor.effectColumnCount = len(_EFFECTS) + 1
        for name in _INSTEAD:
            part = self.editor.findChild(qt.QWidget, name)
            if part is not None:
                part.visible = False
        beside = self.editor.findChild(qt.QHBoxLayout, "horizontalLayout")
        if beside is not None and beside.count() == 2:
            beside.setDirection(qt.QBoxLayout.TopToBottom)
        for name in _FILLED:
            column = self.editor.findChild(qt.QVBoxLayout, name)
            for number in range(column.count() if column is not None else 0):
                spacer = column.itemAt(number).spacerItem()
                if spacer is not None:
                    spacer.changeSize(0, 0)

    def _keep_width(self) -> None:
        """As wide from the beginning as any effect will need, and a scroll bar beside it: Erase asks for the most."""
        frames = [each.optionsFrame() for each in map(self.editor.effectByName, _EFFECTS) if each is not None]
        widest = max((int(frame.minimumSizeHint.width()) for frame in frames), default=0)
        bar = self.panel.ui.workArea.verticalScrollBar()
        self.panel.ui.workArea.minimumWidth = widest + _AROUND + int(bar.sizeHint.width())

    def _select_editor_node(self) -> None:
        scene = self.panel.scene
        node = scene.GetSingletonNode(_TAG, "vtkMRMLSegmentEditorNode")
        if node is None:
            node = slicer.vtkMRMLSegmentEditorNode()
            node.SetSingletonTag(_TAG)
            node = scene.AddNode(node)
        if self.editor.mrmlSegmentEditorNode() is not node:
            self.editor.setMRMLSegmentEditorNode(node)
