"""A model of its own, under Other volumes: offered where prompts are not enough; and giving such a model away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import qt

from ..session.actions import View
from ..session.job import TRAINING
from . import model_list
from .i18n import _, said
from .widgets import allow, show_text

if TYPE_CHECKING:
    from .panel import Panel


class SpecializingSection:
    """Shown only while a model of its own is offered or made."""

    def __init__(self, panel: Panel):
        self.panel, self.ui, self.session = panel, panel.ui, panel.session
        self._making = False
        ui = self.ui
        ui.specializeButton.clicked.connect(self.specialize)
        ui.specializeLineEdit.returnPressed.connect(self.specialize)
        ui.specializeLineEdit.textChanged.connect(self.panel.render_soon)
        ui.shareModelButton.clicked.connect(self.share)
        ui.addModelButton.clicked.connect(self.add)

    def render(self, view: View) -> None:
        ui, making = self.ui, view.doing == TRAINING
        if self._making and not making:
            self.panel.input.look_again()  # there may be a new model in the list
        self._making = making
        show_text(ui.specializeLabel, said(view.specialize) if view.specialize else "")
        for widget in (ui.specializeLineEdit, ui.specializeButton):
            widget.visible = bool(view.specialize) or making
        unnamed = "" if str(ui.specializeLineEdit.text).strip() else _("Type a name for the new model first.")
        reason = said(view.reasons["specialize"]) if view.reasons["specialize"] else ""
        tip = _("Train the network further on these volumes, some minutes; the result is a model in the list.")
        allow(ui.specializeButton, reason or unnamed, tip)
        row = model_list.chosen(model_list.rows(self.panel.parameters.model), self.panel.parameters.model)
        ui.shareModelButton.visible = row.own
        ui.shareModelButton.toolTip = _("Write this model as one file that can be given away.")
        ui.addModelButton.toolTip = _("Add a model that somebody shared as a file.")

    def specialize(self, *_args: Any) -> None:
        """Begin to make the model of the typed name."""
        self.panel.act(self.session.specialize, str(self.ui.specializeLineEdit.text))

    def share(self, *_args: Any) -> None:
        """Write the chosen model as one file."""
        model = self.panel.parameters.model
        kind = _("Shared models") + " (*.zip)"
        path = qt.QFileDialog.getSaveFileName(self.panel.widget, _("Share model"), f"{model}.zip", kind)
        if path:
            self.panel.models.give_away(model, path)
            self._told()

    def add(self, *_args: Any) -> None:
        """Add a model that somebody shared."""
        kind = _("Shared models") + " (*.zip)"
        path = qt.QFileDialog.getOpenFileName(self.panel.widget, _("Add model"), "", kind)
        if path:
            self.panel.models.take(path)
            self._told()

    def _told(self) -> None:
        self.panel.input.look_again()
        self.panel.say(self.panel.models.notice)
        self.panel.render()
