"""The panel on a laptop and on a large screen: what one works with is seen, stays where it is, and is not widened."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6")

from PySide6 import QtCore, QtGui, QtTest, QtWidgets

from harness import slicer_stand_in as stand_in
from harness.mrml_fixtures import add_volume, paint_strokes
from harness.mrml_widgets import EFFECTS
from harness.scene_files import new_scene
from harness.scene_nodes import segments_by_name
from harness.slicer_stand_in import application
from PromptSegLib.scene.segmentations import segments
from PromptSegLib.session.actions import Notice

stand_in.as_in_pythonqt(sys.modules[__name__])

# Size of the module panel, as it was seen at 1366 x 768 (the least of it) and at 1920 x 1080.
SCREENS = {"laptop": (470, 434), "desktop": (470, 776)}
LONG = "This sentence is about something that takes many words to be told, and then some more. " * 4


@pytest.fixture
def app():
    with application(new_scene()) as app:
        yield app


@pytest.fixture(params=SCREENS)
def widget(app, request):
    """The module on a screen, with a volume."""
    widget = app.open_module()
    widget.panel.parameters.live = False  # no worker is needed here
    app.window.resize(*SCREENS[request.param])
    app.window.show()
    volume, _reference = add_volume(app.scene)
    widget.ui.volumeSelector.setCurrentNode(volume)
    process()
    return widget


def process(seconds: float = 0.05) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QtWidgets.QApplication.processEvents()
        time.sleep(0.005)


def name(widget, text: str) -> None:
    """Type a name and press Enter."""
    widget.ui.segmentNameEdit.text = text
    widget.ui.segmentNameEdit.returnPressed.emit()
    process()


def area_of(app) -> QtWidgets.QScrollArea:
    """The panel's place in the application, which scrolls."""
    return app.window.centralWidget()


def places(widget) -> dict[str, QtCore.QRect]:
    """Where what one works with stands on the screen."""
    ui = widget.ui
    parts = (ui.segmentsTable, ui.tuneButton, ui.applyButton, ui.discardButton, ui.undoButton, ui.statusArea)
    window = ui.tuneButton.window()
    return {
        each.objectName: QtCore.QRect(each.mapTo(window, QtCore.QPoint(0, 0)), QtCore.QSize(each.width, each.height))
        for each in (*parts, ui.workArea)
    }


def showing(widget, **changes) -> None:
    """Render the panel for another view than the session's."""
    view = replace(widget.panel.session.view(), **changes)
    widget.panel.session.view = lambda: view
    widget.panel.render()
    process()


def test_a_round_needs_no_scrolling(app, widget):
    """What a correction needs is seen at once: list, buttons, status, effects and the options of Paint."""
    for each in ("liver", "spleen", "left kidney"):
        name(widget, each)
    area = area_of(app)
    assert area.verticalScrollBar().maximum == 0 and area.horizontalScrollBar().maximum == 0
    ui, window = widget.ui, QtCore.QRect(0, 0, app.window.width, app.window.height)
    for place in places(widget).values():
        assert window.contains(place)
    assert ui.workArea.verticalScrollBar().value == 0
    assert ui.workArea.horizontalScrollBar().maximum == 0
    for part in ("Paint", "Erase", "OptionsGroupBox"):
        tool = ui.segmentEditorWidget.findChild(QtWidgets.QWidget, part)
        assert tool.visible
        seen = QtCore.QRect(tool.mapTo(ui.workArea, QtCore.QPoint(0, 0)), QtCore.QSize(tool.width, tool.height))
        assert QtCore.QRect(0, 0, ui.workArea.width, ui.workArea.height).contains(seen), part


def test_nothing_stands_between_the_effects_and_their_options(app, widget):
    """The editor's own list is in a frame that takes all the room that it gets, empty or not."""
    app.window.resize(452, 1100)
    name(widget, "liver")
    process()
    editor = widget.ui.segmentEditorWidget
    parts = [editor.findChild(QtWidgets.QWidget, each) for each in ("Paint", "OptionsGroupBox")]
    paint, options = (each.mapTo(editor, QtCore.QPoint(0, 0)).y() for each in parts)
    assert options - paint - parts[0].height < 20
    editor.setActiveEffect(None)
    process()
    ends = parts[0].mapTo(widget.ui.workArea, QtCore.QPoint(0, parts[0].height)).y()
    assert widget.ui.liveCheckBox.mapTo(widget.ui.workArea, QtCore.QPoint(0, 0)).y() - ends < 20


def test_nothing_that_one_works_with_moves(app, widget):
    """Neither a sentence, nor a job, nor an effect, nor one more segment."""
    before = places(widget)
    name(widget, "liver")
    assert places(widget) == before
    widget.ui.segmentEditorWidget.setActiveEffect(None)
    process()
    assert places(widget) == before
    showing(widget, notice=Notice(LONG, "warning"))
    assert widget.ui.statusLabel.text == LONG
    assert places(widget) == before
    assert widget.ui.statusArea.verticalScrollBar().maximum > 0  # the rest of a long one is scrolled to
    showing(widget, busy=True, doing="Retuning", share=0.4, seconds_left=7.0, tune_text="Cancel", device="CPU")
    assert widget.ui.statusLabel.text.startswith("Retuning, about 7 s left.")
    assert widget.ui.tuneProgressBar.visible
    assert places(widget) == before
    showing(widget, busy=False, curve=((0.1, 1.0, 0.5), (0.4, 0.5, 0.8)), preview="Result", shows="final")
    assert places(widget) == before


def test_the_width_never_changes(app, widget):
    """The application makes its panel as wide as the module asks for, at the least."""
    before = widget.panel.widget.minimumSizeHint.width()
    assert before <= 470
    name(widget, "a structure with a name that is as long as the names of structures ever become in practice")
    widget.ui.segmentEditorWidget.setActiveEffectByName("Paint")
    widget.panel.parameters.volume.SetName("a volume with a very long name, as some of them have it from DICOM tags")
    for changes in ({"busy": True, "tune_text": "Cancel"}, {"notice": Notice(LONG, "error")}, {"shows": "final"}):
        showing(widget, **changes)
        assert widget.panel.widget.minimumSizeHint.width() == before
    widget.ui.promptsCollapsibleButton.collapsed = False
    widget.ui.optionsCollapsibleButton.collapsed = False
    process()
    assert widget.panel.widget.minimumSizeHint.width() == before


@pytest.mark.parametrize("effect", EFFECTS)
def test_nothing_of_an_effect_is_cut_off(app, widget, effect):
    """Beside the scroll bar, which comes with the options of an effect, there is room for the widest of them."""
    app.window.resize(widget.panel.widget.minimumSizeHint.width(), app.window.height)
    name(widget, "liver")
    widget.ui.segmentEditorWidget.setActiveEffectByName(effect)
    process()
    assert widget.ui.workArea.horizontalScrollBar().maximum == 0


def test_input_is_one_line_once_it_is_chosen(app, widget):
    ui = widget.ui
    assert ui.inputCollapsibleButton.collapsed
    assert ui.inputCollapsibleButton.text.startswith("Input: CT \u2192 CT segmentation")
    ui.inputCollapsibleButton.collapsed = False
    widget.panel.render()
    assert not ui.inputCollapsibleButton.collapsed  # as the user wants it
    ui.volumeSelector.setCurrentNode(None)
    process()
    assert not ui.inputCollapsibleButton.collapsed and ui.inputCollapsibleButton.text == "Input"


def test_turning_back_to_a_volume_shows_it(app, widget):
    """The views go black where the other one lies elsewhere."""
    first = widget.panel.parameters.volume
    view = app.scene.AddNewNodeByClass("vtkMRMLSliceNode")
    view.SetDimensions(200, 200, 1)
    view.JumpSliceByCentering(5000.0, 0.0, 0.0)
    add_volume(app.scene, "other")
    second = app.scene.GetFirstNodeByName("other")
    for each in (second, first):
        widget.ui.volumeSelector.setCurrentNode(each)
        process()
    bounds = [0.0] * 6
    first.GetRASBounds(bounds)
    assert view.GetSliceToRAS().GetElement(0, 3) == pytest.approx((bounds[0] + bounds[1]) / 2)


def test_what_is_next_is_bold(widget):
    ui = widget.ui

    def bold() -> list[str]:
        return [each for each in ("tune", "apply", "discard", "undo") if getattr(ui, f"{each}Button").font.bold()]

    assert bold() == []  # nothing is painted: the status says what to do
    assert ui.statusLabel.text == "Add a segment and paint some voxels of a structure first."
    allowed = dict.fromkeys(widget.panel.session.view().reasons, "")
    showing(widget, reasons=allowed)
    assert bold() == ["tune"]
    showing(widget, busy=True, tune_text="Cancel")
    assert bold() == []
    showing(widget, busy=False, tune_text="Tune prompts", shows="grown")
    assert bold() == ["tune"]
    showing(widget, tune_text="Retune")
    assert bold() == ["apply"]  # what corrects a result is local, and there already
    showing(widget, shows="final", tune_text="Tune prompts")
    assert bold() == ["apply"]
    showing(widget, shows="", tune_text="Retune")
    assert bold() == []


# The list of segments


def listed(widget) -> list[tuple[str, str]]:
    table = widget.ui.segmentsTable
    return [(table.item(n, 1).text(), table.cellWidget(n, 2).currentText) for n in range(table.rowCount)]


def test_background_is_there_and_gray(widget):
    assert listed(widget) == [("background", "Background")]
    found = segments(widget.panel.parameters.segmentation)
    assert [each.role for each in found] == ["background"]
    assert found[0].color[0] == found[0].color[1] == found[0].color[2]
    name(widget, "liver")
    assert listed(widget) == [("liver", "Tune"), ("background", "Background")]  # last, wherever it was made


def test_a_structure_is_named_in_one_step(widget):
    ui, editor = widget.ui, widget.ui.segmentEditorWidget
    name(widget, "Liver")
    segmentation = widget.panel.parameters.segmentation
    made = next(each for each in segments(segmentation) if each.name == "Liver")
    assert "10200004" in made.terminology and made.color[0] > 0.8  # Slicer's own color for it
    assert editor.currentSegmentID() == made.id and editor.activeEffect() == "Paint"
    assert ui.segmentNameEdit.text == ""
    assert ui.segmentsTable.currentRow() == 0
    editor.setActiveEffectByName("Draw")
    name(widget, "thing")
    assert editor.activeEffect() == "Draw"  # what is at work stays
    first, second = (each.color for each in segments(segmentation) if each.role == "tune")
    assert first != second
    name(widget, "liver ")  # there already but for its capital: another structure of that name makes no sense
    name(widget, "Liver")
    assert editor.currentSegmentID() == made.id
    ids = segments_by_name(segmentation)
    name(widget, "Background")
    assert editor.currentSegmentID() == ids["background"]
    widget.panel.session.history.undo()
    widget.panel.session.history.undo()
    assert "thing" not in segments_by_name(segmentation) and "Liver" in segments_by_name(segmentation)


def test_names_are_completed(widget):
    edit = widget.ui.segmentNameEdit
    edit.textEdited.emit("kid")
    model = edit.completer().model()
    assert {"left kidney", "right kidney"} <= set(model.stringList())
    edit.textEdited.emit("l")
    assert model.stringList()[0].startswith("l")
    edit.textEdited.emit("")
    assert model.stringList() == []


def test_a_name_that_was_completed_is_cleared_as_well(app, widget):
    """While the list of completions is open, Enter goes to the list and to the field."""
    app.window.activateWindow()
    edit = widget.ui.segmentNameEdit
    edit.setFocus()
    QtTest.QTest.keyClicks(edit, "liv")
    process()
    popup = edit.completer().popup()
    assert popup.visible
    QtTest.QTest.keyClick(popup, QtCore.Qt.Key.Key_Down)
    QtTest.QTest.keyClick(popup, QtCore.Qt.Key.Key_Return)
    process()
    assert edit.text == "" and not popup.visible and not edit.undoAvailable
    assert [each.name for each in segments(widget.panel.parameters.segmentation)] == ["background", "liver"]


def test_what_is_no_name_is_refused(widget):
    name(widget, "   ")
    assert listed(widget) == [("background", "Background")]
    name(widget, "x" * 500)
    assert widget.ui.statusLabel.text.startswith("Type the name of a structure")
    assert listed(widget) == [("background", "Background")]


def test_keys_go_to_the_next_segment_and_to_the_background(app, widget):
    name(widget, "liver")
    name(widget, "spleen")
    ids = segments_by_name(widget.panel.parameters.segmentation)
    keys = {each.key.toString(): each for each in app.window.findChildren(QtGui.QShortcut)}
    current = widget.ui.segmentEditorWidget.currentSegmentID
    for expected in ("background", "liver", "spleen"):
        keys["Ctrl+Shift+K"].activated.emit()
        assert current() == ids[expected]
    keys["Ctrl+Shift+B"].activated.emit()
    assert current() == ids["background"]
    assert widget.ui.segmentsTable.currentRow() == 2


def test_segments_are_selected_renamed_hidden_and_removed(widget):
    ui = widget.ui
    for each in ("liver", "spleen"):
        name(widget, each)
    segmentation = widget.panel.parameters.segmentation
    ids = segments_by_name(segmentation)
    ui.segmentsTable.selectRow(0)
    assert ui.segmentEditorWidget.currentSegmentID() == ids["liver"]
    ui.segmentsTable.item(0, 1).setText("hepar")
    process()
    assert segments_by_name(segmentation)["hepar"] == ids["liver"]
    ui.segmentsTable.item(0, 1).setText("spleen")
    process()
    assert ui.statusLabel.text == "There is a segment called spleen already; choose another name."
    assert listed(widget)[0] == ("hepar", "Tune")
    ui.segmentsTable.item(1, 1).setCheckState(QtCore.Qt.CheckState.Unchecked)
    process()
    assert not segmentation.GetDisplayNode().GetSegmentVisibility(ids["spleen"])
    ui.removeSegmentButton.click()
    process()
    assert "hepar" not in segments_by_name(segmentation)
    widget.panel.session.history.undo()
    process()
    assert "hepar" in segments_by_name(segmentation)


def test_the_color_of_the_selected_line_is_that_of_its_segment(widget):
    name(widget, "liver")
    icon, color = widget.ui.segmentsTable.item(0, 0).icon(), segments(widget.panel.parameters.segmentation)[-1].color
    for mode in (QtGui.QIcon.Mode.Normal, QtGui.QIcon.Mode.Selected):
        shown = icon.pixmap(QtCore.QSize(14, 14), mode).toImage().pixelColor(7, 7)
        assert (shown.red(), shown.green(), shown.blue()) == tuple(round(255 * each) for each in color)


def test_a_renamed_background_stays_one(widget):
    widget.ui.segmentsTable.item(0, 1).setText("around it")
    process()
    assert listed(widget) == [("around it", "Background")]


def test_the_second_half_of_a_double_click_cancels_nothing(app, widget):
    panel, done = widget.panel, []
    volume = panel.parameters.volume
    _volume, reference = add_volume(app.scene, "other")
    paint_strokes(panel.parameters.segmentation, volume, reference)
    panel.render()
    view = panel.session.view()
    panel.session.tune = lambda: done.append("tune") or showing(widget, busy=True)
    panel.session.cancel = lambda: done.append("cancel")
    panel.session.view = lambda: view
    widget.ui.tuneButton.click()
    widget.ui.tuneButton.click()
    assert done == ["tune"]
    panel.actions._clicked -= 1.0  # a second later, it is another click
    panel.session.cancel = lambda: done.append("cancel") or showing(widget, busy=False)
    widget.ui.tuneButton.click()
    widget.ui.tuneButton.click()
    assert done == ["tune", "cancel"]  # and that of Cancel begins nothing


def test_ctrl_z_with_nothing_to_undo_is_quiet(app, widget, capfd):
    """The editor's own key undoes without asking, which VTK warns of."""
    keys = QtGui.QKeySequence(QtGui.QKeySequence.Undo).toString()
    at_work = [each for each in app.window.findChildren(QtGui.QShortcut) if each.key.toString() == keys]
    (undo,) = [each for each in at_work if each.enabled]
    assert len(at_work) == 2
    undo.activated.emit()
    process()
    assert not widget.panel.session.view().notice.text and widget.ui.statusLabel.text.startswith("Add a segment")
    for each in ("liver", "spleen"):
        name(widget, each)
    undo.activated.emit()
    process()
    assert "spleen" not in segments_by_name(widget.panel.parameters.segmentation)
    undo.activated.emit()
    process()
    undo.activated.emit()
    process()
    assert "failed" not in "".join(capfd.readouterr())
    widget.panel.enter()  # the editor makes its own anew
    found = [each for each in app.window.findChildren(QtGui.QShortcut) if each.key.toString() == keys]
    assert len([each for each in found if each.enabled]) == 1


def test_turning_to_other_volumes_learns_where_there_is_something_to_learn(app, widget):
    add_volume(app.scene, "other")
    process()
    done: list[str] = []
    widget.panel.session.other_volumes = lambda: done.append("asked")
    widget.ui.volumesCollapsibleButton.collapsed = False
    process()
    assert done == ["asked"]
    assert "make of CT" in widget.ui.segmentButton.toolTip or "Select prompts" in widget.ui.segmentButton.toolTip


def test_opening_the_other_volumes_is_told(widget):
    done, button = [], widget.ui.volumesCollapsibleButton
    widget.panel.session.other_volumes = lambda: done.append("other volumes")
    button.collapsed = True
    assert not done
    button.collapsed = False
    assert done == ["other volumes"]


def test_pictures(app, widget, tmp_path):
    """For the eye; here only that something was drawn."""
    name(widget, "liver")
    path = tmp_path / "panel.png"
    app.window.grab().save(str(path))
    image = QtGui.QImage(str(path))
    assert len({image.pixel(x, y) for x in range(0, image.width(), 5) for y in range(0, image.height(), 5)}) > 20
