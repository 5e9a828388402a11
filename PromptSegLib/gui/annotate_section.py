"""Annotate: Slicer's Segment Editor, a role for each segment, what unpainted means, and further examples."""

from __future__ import annotations

from typing import Any

import qt
import slicer

from ..session import segments_table, volume_list
from ..session.parameters import UNPAINTED
from ..session.view import View
from .i18n import _, said
from .widgets import choices, fill, on_choice, quietly

_TAG = "PromptSegEditor"
_MOST_ROWS, _ROW_HEIGHT = 6, 24
# What strokes and corrections need, in four rows of buttons: the Segment Editor module has the others.
_EFFECTS = ("Threshold", "Paint", "Draw", "Erase", "Scissors", "Islands", "Smoothing")


class AnnotateSection:
    """Painting, and what the painted segments mean."""

    def __init__(self, panel: Any):
        self.panel, self.ui, self.session = panel, panel.ui, panel.session
        self.editor = self.ui.segmentEditorWidget
        self._rows: Any = None
        self._volumes: Any = None
        self._role_slots: list[Any] = []
        # First the parameter set, then the scene: the editor keeps its selections there.
        self._select_editor_node()
        self.editor.setMRMLScene(panel.scene)
        self.editor.setEffectNameOrder(_EFFECTS)
        self.editor.unorderedEffectsVisible = False
        self.ui.examplesList.itemChanged.connect(self._example_toggled)
        self._unpainted_slot = on_choice(self.ui.unpaintedComboBox, self._unpainted_chosen)

    def enter(self) -> None:
        """Keys and mouse of the views go to the editor while the module is open."""
        self._select_editor_node()
        self.editor.setupViewObservations()
        self.editor.installKeyboardShortcuts()
        self.editor.updateWidgetFromMRML()

    def exit(self) -> None:
        self.editor.setActiveEffect(None)
        self.editor.uninstallKeyboardShortcuts()
        self.editor.removeViewObservations()

    def scene_closing(self) -> None:
        self.editor.setSegmentationNode(None)
        self.editor.removeViewObservations()

    def render(self, view: View) -> None:
        parameters = self.panel.parameters
        self._show_in_editor(parameters.volume, parameters.segmentation)
        self._show_rows(segments_table.rows(self.panel.scene, parameters.segmentation))
        fill(self.ui.unpaintedComboBox, choices(UNPAINTED), parameters.unpainted)
        self._show_examples(volume_list.rows(self.panel.scene, parameters.volume, parameters.examples))

    def _select_editor_node(self) -> None:
        scene = self.panel.scene
        node = scene.GetSingletonNode(_TAG, "vtkMRMLSegmentEditorNode")
        if node is None:
            node = slicer.vtkMRMLSegmentEditorNode()
            node.SetSingletonTag(_TAG)
            node = scene.AddNode(node)
        if self.editor.mrmlSegmentEditorNode() is not node:
            self.editor.setMRMLSegmentEditorNode(node)

    def _show_in_editor(self, volume: Any, segmentation: Any) -> None:
        if self.editor.segmentationNode() is not segmentation:
            self.editor.setSegmentationNode(segmentation)
        if self.editor.sourceVolumeNode() is not volume:
            self.editor.setSourceVolumeNode(volume)

    def _show_rows(self, rows: Any) -> None:
        shown = tuple(rows)
        table = self.ui.rolesTable
        table.visible = bool(rows)
        if shown == self._rows:
            return
        self._rows = shown
        table.rowCount = len(rows)
        self._role_slots = []
        items = choices(segments_table.ROLES)
        for index, row in enumerate(rows):
            item = qt.QTableWidgetItem(_("{name} (empty)").format(name=row.name) if row.is_empty else row.name)
            pixmap = qt.QPixmap(12, 12)
            pixmap.fill(qt.QColor(*(int(255 * part) for part in row.color)))
            item.setIcon(qt.QIcon(pixmap))
            table.setItem(index, 0, item)
            combo = qt.QComboBox()
            fill(combo, items, row.role)
            combo.toolTip = next(tip for key, _text, tip in items if key == row.role)
            self._role_slots.append(self._on_role(combo, row.id))
            table.setCellWidget(index, 1, combo)
        self._fit(table, len(rows))

    def _on_role(self, combo: Any, segment_id: str) -> Any:
        def role_chosen(role: str) -> None:
            notice = segments_table.choose_role(self.panel.parameters.segmentation, segment_id, role)
            if notice.text:
                self.panel.say("annotate", notice)
            self.panel.render_soon()  # not now: the table would replace the combo box that is telling us

        return on_choice(combo, role_chosen)

    def _fit(self, table: Any, count: int) -> None:
        """As high as its rows, up to some, so that the panel holds no empty space."""
        table.resizeColumnToContents(0)
        table.setColumnWidth(0, min(table.columnWidth(0) + 12, 240))
        table.verticalHeader().defaultSectionSize = _ROW_HEIGHT
        height = sum(table.rowHeight(row) for row in range(min(count, _MOST_ROWS)))
        table.setFixedHeight(height + table.horizontalHeader().sizeHint.height() + 4)

    def _unpainted_chosen(self, key: str) -> None:
        self.panel.parameters.unpainted = key
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
            self.panel.act("annotate", self.session.add_example, volume)
        else:
            self.panel.act("annotate", self.session.remove_example, volume)


def check_item(name: str, key: str, checked: bool, reason: str = "") -> Any:
    """An item of a list that can be checked; with a reason, it cannot, and the tooltip says why."""
    item = qt.QListWidgetItem(name)
    item.setData(qt.Qt.UserRole, key)
    item.setFlags(qt.Qt.ItemIsUserCheckable | (qt.Qt.NoItemFlags if reason else qt.Qt.ItemIsEnabled))
    item.setCheckState(qt.Qt.Checked if checked else qt.Qt.Unchecked)
    item.setToolTip(reason)
    return item
