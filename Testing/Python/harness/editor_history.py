"""The application's Segment Editor, as far as undo goes."""

from __future__ import annotations

from typing import Any

from PromptSegLib.scene.history import History


class Editor:
    """One history, of the segmentation that is shown; another one makes it forget."""

    def __init__(self) -> None:
        self.node: Any = None
        self.kept: Any = None

    def show(self, node: Any) -> None:
        if node is not self.node:
            self.node, self.kept = node, History(node) if node is not None else None


class Shown:
    """An editor's history as the panel gives it; see ``gui.history.EditorHistory``."""

    def __init__(self, editor: Editor, node: Any) -> None:
        self.editor, self.node = editor, node

    @property
    def shown(self) -> bool:
        return self.editor.node is self.node

    can_undo = property(lambda self: self.shown and self.editor.kept.can_undo)
    can_redo = property(lambda self: self.shown and self.editor.kept.can_redo)

    def save(self) -> None:
        assert self.shown
        self.editor.kept.save()

    def undo(self) -> bool:
        return self.editor.kept.undo()

    def redo(self) -> bool:
        return self.editor.kept.redo()

    def forget(self) -> None:
        self.editor.show(None)
        self.editor.show(self.node)
