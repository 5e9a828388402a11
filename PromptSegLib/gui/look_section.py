"""Where to look next, and what of a retuning is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..session.actions import View
from .i18n import _, said
from .shortcuts import hint
from .widgets import allow, check

if TYPE_CHECKING:
    from .panel import Panel


class LookSection:
    """Places where the network is unsure, one after the other or as a map."""

    def __init__(self, panel: Panel):
        self.panel, self.ui, self.session = panel, panel.ui, panel.session
        self.ui.lookButton.clicked.connect(self.look)
        self.ui.previousLookButton.clicked.connect(self.look_back)
        self.ui.mapCheckBox.toggled.connect(self.show_map)
        self.ui.keepCheckBox.toggled.connect(self.keep)

    def render(self, view: View) -> None:
        ui = self.ui
        look, shown = view.reasons["look"], view.reasons["map"]
        tip = _("Move the slice views to the next place where the network is unsure.") + hint("look")
        allow(ui.lookButton, said(look) if look else "", tip)
        allow(ui.previousLookButton, said(look) if look else "", _("Back to the place before."))
        text = said(view.look) if view.look else ""
        if ui.lookLabel.text != text:
            ui.lookLabel.text = ui.lookLabel.toolTip = text
        tip = _("Show how unsure the network is over the volume, from yellow to red.") + hint("map")
        allow(ui.mapCheckBox, said(shown) if shown and not view.map_shown else "", tip)
        check(ui.mapCheckBox, view.map_shown)
        reason = view.reasons["keep"]
        tip = _(
            "What nobody corrected stays as it was. Otherwise the preview shows what the retuning adds and removes."
        )
        allow(ui.keepCheckBox, said(reason) if reason else "", tip)
        check(ui.keepCheckBox, view.keeps)

    def look(self, *_args: Any) -> None:
        self.panel.act(self.session.uncertainty.look_next)

    def look_back(self, *_args: Any) -> None:
        self.panel.act(self.session.uncertainty.look_back)

    def show_map(self, checked: bool) -> None:
        self.panel.act(self.session.uncertainty.show_map, bool(checked))

    def keep(self, checked: bool) -> None:
        self.panel.act(self.session.results.keep_previous, bool(checked))
