"""The list of segments: named, selected, shown and given their roles, above all that scrolls."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import qt
import slicer

from ..scene import terminologies
from ..scene.segment_list import show_segment
from ..session.actions import View
from ..session.editing import Names
from .i18n import _, said
from .segments_table import ROLES, SegmentRow, background_id, choose_role, matches, next_id, segment_rows
from .shortcuts import hint
from .widgets import allow, choices, fill, on_choice, quietly

if TYPE_CHECKING:
    from .panel import Panel

_COLOR, _NAME, _ROLE = range(3)
_ROW_HEIGHT, _COLOR_WIDTH, _ROLE_WIDTH = 22, 24, 118
_FEW, _MANY, _TALL = 4, 7, 900  # rows that are seen, and the height of the window in pixels from which they are many


class SegmentsSection:
    """Names and roles of what is painted; the Segment Editor below paints in the one that is selected."""

    def __init__(self, panel: Panel):
        self.panel, self.ui, self.session = panel, panel.ui, panel.session
        self.editor = self.ui.segmentEditorWidget
        self._rows: tuple[SegmentRow, ...] = ()
        self._drawn: Any = None
        self._role_slots: list[Any] = []
        self.session.segments.names = Names(_terminologies)
        self._completions = qt.QStringListModel()
        self._completer = qt.QCompleter()
        self._prepare_completer()
        ui = self.ui
        ui.segmentNameEdit.textEdited.connect(self._typed)
        ui.segmentNameEdit.returnPressed.connect(self.add)
        ui.addSegmentButton.clicked.connect(self.add)
        ui.removeSegmentButton.clicked.connect(self.remove)
        ui.segmentsTable.itemSelectionChanged.connect(self._selected)
        ui.segmentsTable.itemChanged.connect(self._changed)
        ui.segmentsTable.cellDoubleClicked.connect(self._double_clicked)
        header = ui.segmentsTable.horizontalHeader()
        header.setSectionResizeMode(_NAME, qt.QHeaderView.Stretch)
        ui.segmentsTable.setColumnWidth(_COLOR, _COLOR_WIDTH)
        ui.segmentsTable.setColumnWidth(_ROLE, _ROLE_WIDTH)
        ui.segmentsTable.verticalHeader().defaultSectionSize = _ROW_HEIGHT

    def render(self, view: View) -> None:
        ui = self.ui
        rows = segment_rows(self.panel.scene, self.panel.parameters.segmentation)
        if rows != self._drawn:
            self._show(rows)
        self._fit()
        self._show_selection()
        reason = view.reasons.get("name", "")
        tip = _("Make or select the segment of that name, to paint in at once.")
        keys = _("Next segment:{following}, background:{background}")
        keys = keys.format(following=hint("next"), background=hint("background"))
        allow(ui.addSegmentButton, said(reason) if reason else "", f"{tip} {keys}")
        ui.segmentNameEdit.enabled = not reason
        nothing = "" if self.current else _("Select a segment in the list first.")
        allow(ui.removeSegmentButton, nothing, _("Remove the selected segment; this can be undone."))

    # What users do

    def add(self, *_args: Any) -> None:
        """Name a structure: make and select it, with Paint at hand."""
        typed = str(self.ui.segmentNameEdit.text)
        if not typed.strip():
            self.ui.segmentNameEdit.setFocus()
            return
        made: list[str] = []
        self.panel.act(lambda: made.append(self.session.segments.name(typed)))
        if made and made[0]:
            self._empty_field()
            self._completions.setStringList([])  # a list that is open would complete what was cleared
            qt.QTimer.singleShot(0, self._empty_field)
            self.paint_in(made[0])

    def _empty_field(self) -> None:
        self.ui.segmentNameEdit.text = ""  # not clear(): Ctrl+Z in the field would bring the name back

    def remove(self, *_args: Any) -> None:
        if self.current:
            self.panel.act(self.session.segments.remove, self.current)

    def paint_in(self, segment_id: str) -> None:
        """Select a segment, with the Paint effect unless another one is at work."""
        if not segment_id:
            return
        self.panel.render()  # the editor may not show the segmentation yet
        self.editor.setCurrentSegmentID(segment_id)
        if self.editor.activeEffect() is None:
            self.editor.setActiveEffectByName("Paint")
        self._show_selection()

    def paint_next(self) -> None:
        """The next segment of the list."""
        self.paint_in(next_id(self._rows, self.current))

    def paint_background(self) -> None:
        """The background, from wherever one is."""
        self.paint_in(background_id(self._rows))

    @property
    def current(self) -> str:
        """The ID of the segment that is painted in; "" without one."""
        segment_id = str(self.editor.currentSegmentID() or "")
        return segment_id if any(row.id == segment_id for row in self._rows) else ""

    # The list

    def _show(self, rows: tuple[SegmentRow, ...]) -> None:
        self._rows = self._drawn = rows
        table = self.ui.segmentsTable
        with quietly(table):
            table.rowCount = len(rows)
            self._role_slots = []
            for index, row in enumerate(rows):
                self._show_row(table, index, row)

    def _show_row(self, table: Any, index: int, row: SegmentRow) -> None:
        color = qt.QTableWidgetItem()
        pixmap = qt.QPixmap(14, 14)
        pixmap.fill(qt.QColor(*row.color))
        icon = qt.QIcon(pixmap)
        icon.addPixmap(pixmap, qt.QIcon.Selected)  # else that of the selected line would be tinted
        color.setIcon(icon)
        color.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
        color.setToolTip(_("Double-click for another color."))
        table.setItem(index, _COLOR, color)
        name = qt.QTableWidgetItem(row.name)
        name.setCheckState(qt.Qt.Checked if row.shown else qt.Qt.Unchecked)
        if row.is_empty:
            font = table.font
            font.setItalic(True)
            name.setFont(font)
        name.setToolTip(_("{name}: nothing painted yet").format(name=row.name) if row.is_empty else row.name)
        table.setItem(index, _NAME, name)
        items = choices(ROLES)
        combo = qt.QComboBox()
        fill(combo, items, str(row.role))
        combo.toolTip = next(tip for key, _text, tip in items if key == row.role)
        combo.focusPolicy = qt.Qt.NoFocus
        self._role_slots.append(on_choice(combo, partial(self._role_chosen, row.id)))
        table.setCellWidget(index, _ROLE, combo)

    def _fit(self) -> None:
        """As high as some rows, however many there are: what is below stays where it is."""
        rows = _MANY if int(self.panel.widget.window().height) >= _TALL else _FEW
        height = rows * _ROW_HEIGHT + 4
        if int(self.ui.segmentsTable.height) != height or int(self.ui.segmentsTable.minimumHeight) != height:
            self.ui.segmentsTable.setFixedHeight(height)

    def _show_selection(self) -> None:
        table = self.ui.segmentsTable
        wanted = next((n for n, row in enumerate(self._rows) if row.id == self.current), -1)
        if table.currentRow() != wanted:
            with quietly(table):
                table.setCurrentCell(wanted, _NAME)

    def _selected(self, *_args: Any) -> None:
        number = self.ui.segmentsTable.currentRow()
        if 0 <= number < len(self._rows) and self._rows[number].id != self.current:
            self.editor.setCurrentSegmentID(self._rows[number].id)
            self.panel.render_soon()

    def _changed(self, item: Any) -> None:
        """A name was typed, or the mark beside it clicked."""
        number = self.ui.segmentsTable.row(item)
        if item.column() != _NAME or not 0 <= number < len(self._rows):
            return
        row = self._rows[number]
        self._drawn = None  # whatever becomes of it, the list is shown anew
        checked = item.checkState() == qt.Qt.Checked
        if checked != row.shown:
            show_segment(self.panel.parameters.segmentation, row.id, checked)
        if item.text() != row.name:
            self.panel.act(self.session.segments.rename, row.id, item.text())
        self.panel.render_soon()

    def _double_clicked(self, number: int, column: int) -> None:
        if column != _COLOR or not 0 <= number < len(self._rows):
            return
        row = self._rows[number]
        title = _("Color of {name}").format(name=row.name)
        color = qt.QColorDialog.getColor(qt.QColor(*row.color), self.panel.widget, title)
        if color.isValid():
            self.panel.act(self.session.segments.color, row.id, (color.redF(), color.greenF(), color.blueF()))

    def _role_chosen(self, segment_id: str, role: str) -> None:
        notice = choose_role(self.panel.parameters.segmentation, segment_id, role)
        if notice.text:
            self.panel.say(notice)
        self.panel.painted()
        self.panel.render_soon()  # not now: the table would replace the combo box that is telling us

    # Completing names

    def _prepare_completer(self) -> None:
        completer = self._completer
        completer.setModel(self._completions)
        completer.caseSensitivity = qt.Qt.CaseInsensitive
        completer.completionMode = qt.QCompleter.UnfilteredPopupCompletion
        self.ui.segmentNameEdit.setCompleter(completer)

    def _typed(self, text: str) -> None:
        self._completions.setStringList(list(matches(str(text), self.session.segments.names.suggestions())))


def _terminologies() -> dict:
    """What the application's terminologies list; nothing where it has none."""
    module = getattr(slicer.modules, "terminologies", None) if hasattr(slicer, "modules") else None
    return terminologies.entries(module.logic()) if module is not None else {}
