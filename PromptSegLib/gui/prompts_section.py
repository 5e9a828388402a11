"""Prompts: shipped ones and the user's own, to save, to load, and to segment with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import qt

from ..session.actions import PromptsRow, View
from . import volume_list
from .i18n import _, said
from .options_section import check_item
from .widgets import allow, quietly

if TYPE_CHECKING:
    from .panel import Panel

_FILES = "*.safetensors"


class PromptsSection:
    """The list of prompts and what can be done with the selected ones."""

    def __init__(self, panel: Panel):
        self.panel, self.ui, self.session = panel, panel.ui, panel.session
        self._rows: tuple[PromptsRow, ...] = ()
        self._volumes: Any = None
        self._reasons: Any = {}
        self._named = ""  # the volume that is segmented
        ui = self.ui
        ui.promptsTree.itemSelectionChanged.connect(self._selected)
        ui.promptsTree.itemChanged.connect(self._renamed)
        ui.segmentButton.clicked.connect(self.segment)
        ui.segmentVolumesButton.clicked.connect(self.segment_volumes)
        ui.loadButton.clicked.connect(self.load)
        ui.saveButton.clicked.connect(self.save)
        ui.renameButton.clicked.connect(self.rename)
        ui.deletePromptsButton.clicked.connect(self.delete)
        ui.volumesList.itemChanged.connect(self._selected)
        ui.volumesCollapsibleButton.contentsCollapsed.connect(self._turned_to_others)

    def render(self, view: View) -> None:
        self._reasons = view.reasons
        if view.prompts != self._rows:
            self._show_rows(view.prompts)
        parameters = self.panel.parameters
        self._show_volumes(volume_list.rows(self.panel.scene, parameters.volume, ()))
        self._named = parameters.volume.GetName() if parameters.volume is not None else ""
        self._allow()

    # The list

    @property
    def selected(self) -> Any:
        """The selected row; None without one."""
        items = self.ui.promptsTree.selectedItems()
        key = str(items[0].data(0, qt.Qt.UserRole)) if items else ""
        return next((row for row in self._rows if row.key == key), None)

    def _show_rows(self, rows: tuple[PromptsRow, ...]) -> None:
        before, tree = self.selected, self.ui.promptsTree
        wanted = before.key if before is not None else ""
        current = next((row.key for row in rows if row.current), "")
        newly = current and current not in [row.key for row in self._rows if row.current]
        if newly or wanted not in [row.key for row in rows]:
            wanted = current or (rows[0].key if rows else "")
        self._rows = rows
        with quietly(tree):
            tree.clear()
            for row in rows:
                item = qt.QTreeWidgetItem([row.name, ", ".join(row.classes)])
                item.setData(0, qt.Qt.UserRole, row.key)
                reason = said(row.reason) if row.reason else ", ".join(row.classes)
                if row.current:
                    reason += "\n" + _("Retune goes on from these.")
                if row.taught:
                    reason += "\n" + _("Learned from {examples}.").format(examples=row.taught)
                for column in range(2):
                    item.setToolTip(column, reason)
                if not row.shipped:
                    item.setFlags(item.flags() | qt.Qt.ItemIsEditable)
                if row.current:
                    font = tree.font
                    font.setBold(True)
                    item.setFont(0, font)
                tree.addTopLevelItem(item)
                if row.key == wanted:
                    item.setSelected(True)
            tree.resizeColumnToContents(0)

    def _allow(self) -> None:
        ui, row = self.ui, self.selected
        nothing = "" if row is not None else _("Select prompts in the list first.")
        shipped = _("Shipped prompts stay as they are.") if row is not None and row.shipped else ""
        foreign = said(row.reason) if row is not None and row.reason else ""
        busy = said(self._reasons["segment"]) if self._reasons["segment"] else ""
        others = "" if self._checked() else _("Check at least one volume in the list.")
        tip = _("Preview what these prompts make of {volume}.").format(volume=self._named)
        allow(ui.segmentButton, nothing or foreign or busy, tip)
        tip = _("Segment them one after the other; the button above cancels.")
        allow(ui.segmentVolumesButton, nothing or foreign or busy or others, tip)
        allow(ui.loadButton, "", _("Load prompts from a file into the scene."))
        allow(ui.saveButton, nothing, _("Save these prompts to a file, to share or to use in other scenes."))
        allow(ui.renameButton, nothing or shipped, _("Type another name in the list."))
        allow(ui.deletePromptsButton, nothing or shipped, _("Remove these prompts from the scene."))

    def _selected(self, *_args: Any) -> None:
        self._allow()

    def _renamed(self, item: Any, column: int) -> None:
        row = next((row for row in self._rows if row.key == str(item.data(0, qt.Qt.UserRole))), None)
        if row is None or column != 0 or row.name == item.text(0):
            return
        self._rows = ()  # whatever became of it, the list is shown anew
        self.panel.act(self.session.prompts.rename, row.key, item.text(0))

    # What can be done

    def segment(self, *_args: Any) -> None:
        if self.selected is not None:
            self.panel.act(self.session.segment, self.selected.key)

    def segment_volumes(self, *_args: Any) -> None:
        volumes = [self.panel.scene.GetNodeByID(key) for key in self._checked()]
        if self.selected is not None:
            self.panel.act(self.session.segment, self.selected.key, volumes)

    def load(self, *_args: Any) -> None:
        kind = _("Prompts") + f" ({_FILES})"
        path = qt.QFileDialog.getOpenFileName(self.panel.widget, _("Load prompts"), "", kind)
        if path:
            self.panel.act(self.session.prompts.load, path)

    def save(self, *_args: Any) -> None:
        row = self.selected
        if row is None:
            return
        kind = _("Prompts") + f" ({_FILES})"
        start = row.name.replace("/", "_") + _FILES[1:]
        path = qt.QFileDialog.getSaveFileName(self.panel.widget, _("Save prompts"), start, kind)
        if path:
            self.panel.act(self.session.prompts.save, row.key, path)

    def rename(self, *_args: Any) -> None:
        items = self.ui.promptsTree.selectedItems()
        if items:
            self.ui.promptsTree.editItem(items[0], 0)

    def delete(self, *_args: Any) -> None:
        if self.selected is not None:
            self.panel.act(self.session.prompts.delete, self.selected.key)

    # Other volumes

    def _turned_to_others(self, collapsed: bool) -> None:
        if not collapsed:
            self.panel.act(self.session.other_volumes)

    def _checked(self) -> list[str]:
        items = [self.ui.volumesList.item(n) for n in range(self.ui.volumesList.count)]
        return [str(item.data(qt.Qt.UserRole)) for item in items if item.checkState() == qt.Qt.Checked]

    def _show_volumes(self, rows: Any) -> None:
        self.ui.volumesCollapsibleButton.visible = bool(rows)
        shown = tuple((row.key, row.name) for row in rows)
        if shown == self._volumes:
            return
        self._volumes = shown
        checked = self._checked()
        with quietly(self.ui.volumesList):
            self.ui.volumesList.clear()
            for row in rows:
                self.ui.volumesList.addItem(check_item(row.name, row.key, row.key in checked))
