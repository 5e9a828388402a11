"""Tune prompts: one button, how far it is, and the preview's opacity."""

from __future__ import annotations

from typing import Any

from ..session.choices import METHODS, MODES
from ..session.view import View
from . import curve
from .i18n import _, said
from .shortcuts import hint
from .widgets import allow, choices, fill, on_choice, show_progress, show_text


class TuneSection:
    """The button that tunes, retunes or cancels, and what a running job says."""

    def __init__(self, panel: Any):
        self.panel, self.ui = panel, panel.ui
        self._drawn: Any = None
        self.ui.tuneButton.clicked.connect(self.clicked)
        self._slots = [
            on_choice(self.ui.methodComboBox, self._method_chosen),
            on_choice(self.ui.modeComboBox, self._mode_chosen),
        ]

    def render(self, view: View) -> None:
        ui, parameters = self.ui, self.panel.parameters
        ui.tuneButton.text = said(view.tune_text)
        tip = _("Stop the running job; nothing is changed.") if view.busy else _("Learn the painted segments.")
        allow(ui.tuneButton, "" if view.busy else _shown(view.reasons["tune"]), tip + hint("tune"))
        ui.tuneProgressBar.visible = view.busy
        show_progress(ui.tuneProgressBar, view.share)
        show_text(ui.stageLabel, _stage(view) if view.busy else "")
        ui.curveLabel.visible = len(view.curve) > 1
        if len(view.curve) > 1:
            key = (view.curve[-1], len(view.curve), int(ui.curveLabel.width))
            if key != self._drawn:
                self._drawn = key
                curve.draw(ui.curveLabel, view.curve)
        fill(ui.methodComboBox, choices(METHODS), parameters.method)
        fill(ui.modeComboBox, choices(MODES), parameters.mode)

    def clicked(self, *_args: Any) -> None:
        self.panel.act("tune", self.panel.tune_or_cancel)

    def _method_chosen(self, key: str) -> None:
        self.panel.parameters.method = key
        self.panel.render()

    def _mode_chosen(self, key: str) -> None:
        self.panel.parameters.mode = key
        self.panel.render()


def _shown(reason: str) -> str:
    return said(reason) if reason else ""


def _stage(view: View) -> str:
    """What is going on and how long it will take."""
    stage = said(view.stage or "preparing")
    stage = stage[:1].upper() + stage[1:]
    if view.seconds_left is None:
        return _("{stage}...").format(stage=stage)
    return _("{stage}, about {seconds:.0f} s left").format(stage=stage, seconds=max(1.0, view.seconds_left))
