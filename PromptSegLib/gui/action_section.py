"""The action bar: tune, apply, discard and undo, how far a job is, and one line on how things stand."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import qt

from ..session.actions import Notice, View
from .action_bar import action_bar
from .i18n import _, said
from .shortcuts import hint
from .widgets import allow, show_notice, show_progress

if TYPE_CHECKING:
    from .panel import Panel

_LINES = 2  # of the status, which keeps its height: nothing that one works with ever moves
_TWICE = 0.5  # seconds in which a second click on the button is the second half of a double click


class ActionSection:
    """What is done again and again. It never scrolls, changes its size, or moves."""

    def __init__(self, panel: Panel):
        self.panel, self.ui, self.session = panel, panel.ui, panel.session
        self._clicked = -_TWICE
        ui = self.ui
        ui.tuneButton.clicked.connect(self.clicked)
        ui.applyButton.clicked.connect(self.apply)
        ui.discardButton.clicked.connect(self.discard)
        ui.undoButton.clicked.connect(self.undo)
        ui.redoButton.clicked.connect(self.redo)
        line = ui.statusLabel.fontMetrics().lineSpacing()
        ui.statusArea.setFixedHeight(_LINES * int(line) + 4)

    def render(self, view: View, own: Notice) -> None:
        """:param own: a sentence that is not the session's, instead of its own."""
        ui, bar = self.ui, action_bar(view)
        ui.tuneButton.text = said(view.tune_text)
        tip = _("Stop the running job; nothing is changed.") if view.busy else _("Learn the painted segments.")
        allow(ui.tuneButton, "" if view.busy else _shown(view.reasons["tune"]), tip + hint("tune"))
        tips = {
            "apply": _("Take the preview into the segmentation; this can be undone.") + hint("apply"),
            "discard": _("Forget the preview.") + hint("discard"),
            "undo": _("Take back the last result or stroke (Ctrl+Z)."),
            "redo": _("Bring back what was undone ({keys}).").format(
                keys=qt.QKeySequence(qt.QKeySequence.Redo).toString(qt.QKeySequence.NativeText)
            ),
        }
        for action, tip in tips.items():
            allow(getattr(ui, f"{action}Button"), _shown(view.reasons[action]), tip)
        for name in ("tune", "apply"):
            _embolden(getattr(ui, f"{name}Button"), bar.bold == name)
        ui.tuneProgressBar.visible = view.busy
        show_progress(ui.tuneProgressBar, view.share)
        show_notice(ui.statusLabel, own if own.text else bar.status)
        ui.statusArea.toolTip = ui.statusLabel.text

    def clicked(self, *_args: Any) -> None:
        """The one big button; the second half of a double click neither cancels what the first has begun, nor begins
        what it has cancelled."""
        if time.monotonic() - self._clicked < _TWICE:
            return
        self.panel.act(self.panel.tune_or_cancel)
        self._clicked = time.monotonic()  # however long that took

    def apply(self, *_args: Any) -> None:
        self.panel.act(self.session.apply)

    def discard(self, *_args: Any) -> None:
        self.panel.act(self.session.discard)

    def undo(self, *_args: Any) -> None:
        """The button and its keys; these come also when there is nothing to undo, which needs no word."""
        self._go("undo")

    def redo(self, *_args: Any) -> None:
        self._go("redo")

    def _go(self, way: str) -> None:
        view, editor = self.session.view(), self.ui.segmentEditorWidget
        if not view.reasons[way]:
            self.panel.act(getattr(self.session.history, way))
        elif view.busy:  # results stay, but a stroke that was painted meanwhile may go
            button = editor.findChild(qt.QAbstractButton, f"{way.capitalize()}Button")
            if button is not None and bool(button.enabled):
                getattr(editor, way)()


def _shown(reason: str) -> str:
    return said(reason) if reason else ""


def _embolden(button: Any, bold: bool) -> None:
    """What to do next is bold."""
    font = button.font
    if bool(font.bold()) != bold:
        font.setBold(bold)
        button.font = font
