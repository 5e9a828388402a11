"""Correct and retune: where to look next."""

from __future__ import annotations

from typing import Any

from ..session.view import View
from .i18n import _, said
from .shortcuts import hint
from .widgets import allow, check


class CorrectSection:
    """Places where the network is unsure, one after the other or as a map."""

    def __init__(self, panel: Any):
        self.panel, self.ui, self.session = panel, panel.ui, panel.session
        self.ui.lookButton.clicked.connect(self.look)
        self.ui.mapCheckBox.toggled.connect(self.show_map)

    def render(self, view: View) -> None:
        ui = self.ui
        look, shown = view.reasons["look"], view.reasons["map"]
        tip = _("Move the slice views to the next place where the network is unsure.") + hint("look")
        allow(ui.lookButton, said(look) if look else "", tip)
        ui.lookLabel.text = said(view.look) if view.look else ""
        tip = _("Show how unsure the network is over the volume, from yellow to red.") + hint("map")
        allow(ui.mapCheckBox, said(shown) if shown and not view.map_shown else "", tip)
        check(ui.mapCheckBox, view.map_shown)

    def look(self, *_args: Any) -> None:
        self.panel.act("correct", self.session.look_next)

    def show_map(self, checked: bool) -> None:
        self.panel.act("correct", self.session.show_map, bool(checked))
