"""Result: take or leave the preview, undo and redo, and how a result meets other segments."""

from __future__ import annotations

from typing import Any

import qt

from ..session.parameters import OVERLAP
from ..session.view import View
from .i18n import _, said
from .shortcuts import hint
from .widgets import allow, choices, fill, on_choice, show_text


class ResultSection:
    """What happens with the preview."""

    def __init__(self, panel: Any):
        self.panel, self.ui, self.session = panel, panel.ui, panel.session
        self.ui.applyButton.clicked.connect(self.apply)
        self.ui.discardButton.clicked.connect(self.discard)
        self.ui.undoButton.clicked.connect(self.undo)
        self.ui.redoButton.clicked.connect(self.redo)
        self._overlap_slot = on_choice(self.ui.overlapComboBox, self._overlap_chosen)

    def render(self, view: View) -> None:
        ui = self.ui
        show_text(ui.previewLabel, said(view.preview) if view.preview else "")
        tips = {
            "apply": _("Take the preview into the segmentation; this can be undone.") + hint("apply"),
            "discard": _("Forget the preview.") + hint("discard"),
            "undo": _("Take back the last result or stroke (Ctrl+Z)."),
            "redo": _("Bring back what was undone ({keys}).").format(
                keys=qt.QKeySequence(qt.QKeySequence.Redo).toString(qt.QKeySequence.NativeText)
            ),
        }
        for action, tip in tips.items():
            reason = view.reasons[action]
            allow(getattr(ui, f"{action}Button"), said(reason) if reason else "", tip)
        fill(ui.overlapComboBox, choices(OVERLAP), self.panel.parameters.overlap)

    def apply(self, *_args: Any) -> None:
        self.panel.act("result", self.session.apply)

    def discard(self, *_args: Any) -> None:
        self.panel.act("result", self.session.discard)

    def undo(self, *_args: Any) -> None:
        self.panel.act("result", self.session.undo)

    def redo(self, *_args: Any) -> None:
        self.panel.act("result", self.session.redo)

    def _overlap_chosen(self, key: str) -> None:
        self.panel.parameters.overlap = key
        self.panel.render()
