"""One history of strokes and results: the Segment Editor's own."""

from __future__ import annotations

from typing import Any

import qt


class EditorHistory:
    """Undo and redo of a ``qMRMLSegmentEditorWidget``, as a session wants them; see ``scene.history.History``.

    The editor keeps the states of the segmentation that it shows and forgets them when it shows another.
    """

    def __init__(self, editor: Any, segmentation_node: Any):
        self._editor, self._node = editor, segmentation_node
        # The editor tells whether there is anything to undo only by its own buttons.
        self._undo = editor.findChild(qt.QAbstractButton, "UndoButton")
        self._redo = editor.findChild(qt.QAbstractButton, "RedoButton")

    def save(self) -> None:
        """Keep the state as it is now: call this before a change."""
        self._editor.saveStateForUndo()

    def forget(self) -> None:
        """Let all states go: the editor does when another segmentation is shown."""
        self._editor.setSegmentationNode(None)
        self._editor.setSegmentationNode(self._node)

    def undo(self) -> bool:
        """Go back by one state; whether there was one."""
        able = self.can_undo
        if able:
            self._editor.undo()
        return able

    def redo(self) -> bool:
        """Take back an undo; whether there was one."""
        able = self.can_redo
        if able:
            self._editor.redo()
        return able

    @property
    def can_undo(self) -> bool:
        return self.shown and bool(self._undo.enabled)

    @property
    def can_redo(self) -> bool:
        return self.shown and bool(self._redo.enabled)

    @property
    def shown(self) -> bool:
        """Whether the states are those of this segmentation."""
        return bool(self._editor.segmentationNodeID() == self._node.GetID())
