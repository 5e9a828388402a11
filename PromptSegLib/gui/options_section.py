"""Options: what unpainted voxels mean, how results meet other segments, and which other volumes teach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import qt

from ..session.actions import View
from . import volume_list
from .choices import OVERLAP, UNPAINTED
from .i18n import _, said
from .widgets import choices, fill, on_choice, quietly

if TYPE_CHECKING:
    from .panel import Panel


class OptionsSection:
    """Choices that are made once; those that name a parameter in the .ui are bound by that."""

    def __init__(self, panel: Panel):
        self.panel, self.ui, self.session = panel, panel.ui, panel.session
        self._volumes: Any = None
        self.ui.examplesList.itemChanged.connect(self._example_toggled)
        self._slots = [
            on_choice(self.ui.unpaintedComboBox, self._unpainted_chosen),
            on_choice(self.ui.overlapComboBox, self._overlap_chosen),
        ]

    def render(self, view: View) -> None:
        parameters = self.panel.parameters
        fill(self.ui.unpaintedComboBox, choices(UNPAINTED), parameters.unpainted)
        fill(self.ui.overlapComboBox, choices(OVERLAP), parameters.overlap)
        self._show_examples(volume_list.rows(self.panel.scene, parameters.volume, parameters.examples))

    def _unpainted_chosen(self, key: str) -> None:
        self.panel.parameters.unpainted = key
        self.panel.render()

    def _overlap_chosen(self, key: str) -> None:
        self.panel.parameters.overlap = key
        self.panel.render()

    def _show_examples(self, rows: Any) -> None:
        ui = self.ui
        ui.examplesCollapsibleButton.visible = bool(rows)
        count = sum(row.example for row in rows)
        text = _("Further examples ({count})").format(count=count) if count else _("Further examples")
        if ui.examplesCollapsibleButton.text != text:
            ui.examplesCollapsibleButton.text = text
        shown = tuple((row.key, row.name, row.example, row.reason) for row in rows)
        if shown == self._volumes:
            return
        self._volumes = shown
        with quietly(ui.examplesList):
            ui.examplesList.clear()
            for row in rows:
                ui.examplesList.addItem(
                    check_item(row.name, row.key, row.example, said(row.reason) if row.reason else "")
                )

    def _example_toggled(self, item: Any) -> None:
        volume = self.panel.scene.GetNodeByID(str(item.data(qt.Qt.UserRole)))
        if item.checkState() == qt.Qt.Checked:
            self.panel.act(self.session.inputs.add_example, volume)
        else:
            self.panel.act(self.session.inputs.remove_example, volume)


def check_item(name: str, key: str, checked: bool, reason: str = "") -> Any:
    """An item of a list that can be checked; with a reason, it cannot, and the tooltip says why."""
    item = qt.QListWidgetItem(name)
    item.setData(qt.Qt.UserRole, key)
    item.setFlags(qt.Qt.ItemIsUserCheckable | (qt.Qt.NoItemFlags if reason else qt.Qt.ItemIsEnabled))
    item.setCheckState(qt.Qt.Checked if checked else qt.Qt.Unchecked)
    item.setToolTip(reason)
    return item
