"""The panel: what is possible when, and what goes wrong."""

from __future__ import annotations

import math
import os
import sys

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6")

from PySide6 import QtCore, QtGui

from harness import slicer_stand_in as stand_in
from harness.mrml_fixtures import add_volume, content, mask_of, paint_strokes
from harness.panel_fixtures import finish, process, said, tune
from harness.scene_nodes import segments_by_name
from harness.session_harness import BRIEF, LONG
from harness.slicer_stand_in import FileDialog
from PromptSegLib.scene import node_references
from PromptSegLib.session import recovery

pytest_plugins = ["harness.panel_fixtures"]
stand_in.as_in_pythonqt(sys.modules[__name__])


# What is possible when


def test_disabled_buttons_say_why(app, widget):
    ui = widget.ui
    for name, reason in (
        ("tuneButton", "Choose a volume first."),
        ("segmentButton", "Choose a volume first."),
        ("applyButton", "There is no preview; paint some voxels or tune first."),
        ("discardButton", "There is no preview; paint some voxels or tune first."),
        ("undoButton", "Choose a segmentation first."),
        ("newSegmentationButton", "Choose a volume first."),
        ("lookButton", "Tune or segment first."),
    ):
        button = getattr(ui, name)
        assert not button.enabled
        assert reason in button.toolTip or "Select prompts" in button.toolTip
    volume, _ = add_volume(app.scene)
    ui.volumeSelector.setCurrentNode(volume)
    assert not ui.tuneButton.enabled
    assert "paint some voxels" in ui.tuneButton.toolTip
    assert ui.newSegmentationButton.enabled


def test_a_volume_brings_its_own_segmentation(app, widget):
    ui, parameters = widget.ui, widget.panel.parameters
    first, _ = add_volume(app.scene, "first")
    second, _ = add_volume(app.scene, "second")
    ui.volumeSelector.setCurrentNode(first)
    own = parameters.segmentation
    assert own is node_references.remembered(first)
    ui.volumeSelector.setCurrentNode(second)
    assert parameters.segmentation is node_references.remembered(second) is not own
    assert ui.segmentEditorWidget.segmentationNode() is parameters.segmentation
    assert ui.segmentEditorWidget.sourceVolumeNode() is second
    ui.volumeSelector.setCurrentNode(first)
    assert parameters.segmentation is own
    assert ui.segmentationSelector.currentNode() is own
    ui.newSegmentationButton.click()
    assert parameters.segmentation is node_references.remembered(first) is not own


def test_roles_are_chosen_in_the_table(ready):
    widget, _volume, segmentation, _reference = ready
    table = widget.ui.segmentsTable
    assert [table.item(n, 1).text() for n in range(table.rowCount)] == ["ball", "rod", "background"]
    assert [table.cellWidget(n, 2).currentText for n in range(3)] == ["Tune", "Tune", "Background"]
    combo = table.cellWidget(1, 2)
    combo.currentIndex = combo.findText("Locked")
    process()
    roles = {each.name: each.role for each in _segments(segmentation)}
    assert roles == {"ball": "tune", "rod": "locked", "background": "background"}
    assert table.cellWidget(1, 2).currentText == "Locked"
    before = mask_of(segmentation, _volume, "rod")
    tune(widget)
    widget.ui.applyButton.click()
    finish(widget)
    assert (mask_of(segmentation, _volume, "rod") == before).all()


def _segments(segmentation):
    from PromptSegLib.scene.segmentations import segments

    return segments(segmentation)


def test_what_is_painted_is_shown_while_painting(ready):
    widget, _volume, segmentation, _reference = ready
    ui, before = widget.ui, content(segmentation)
    assert ui.liveCheckBox.checked
    widget.panel.painted()  # as the editor's event does; the fixture painted before the panel had looked
    session = widget.panel.session
    process(lambda: session.view().preview != "")
    assert session.view().preview == "Grown from strokes; Tune prompts refines it"
    finish(widget)
    assert ui.tuneButton.text == "Tune prompts" and ui.tuneButton.enabled and ui.applyButton.enabled
    assert not ui.tuneProgressBar.visible and said(widget).startswith("Grown from strokes; Tune prompts refines it.")
    assert session.view().remarks and said(widget).endswith(" ".join(session.view().remarks))
    assert content(segmentation) == before
    ui.liveCheckBox.click()
    assert not widget.panel.parameters.live
    process(lambda: not session.view().preview)
    assert not ui.applyButton.enabled
    ui.liveCheckBox.click()
    process(lambda: ui.applyButton.enabled)
    ui.applyButton.click()
    finish(widget)
    assert said(widget).startswith("Applied ball, rod.")


@pytest.mark.parametrize("what", ["removed", "role", "unpainted"])
def test_what_is_painted_is_grown_anew_when_it_means_something_else(ready, monkeypatch, what):
    """No voxel is painted by any of these."""
    widget, _volume, segmentation, _reference = ready
    finish(widget)
    told: list[str] = []
    monkeypatch.setattr(widget.panel.session, "painted", lambda: told.append(what))
    process(lambda: widget.panel._segments_watch._object is segmentation)
    if what == "removed":
        segmentation.GetSegmentation().RemoveSegment(segments_by_name(segmentation)["rod"])
    elif what == "role":
        widget.panel.segments._role_chosen(segments_by_name(segmentation)["rod"], "ignore")
    else:
        widget.panel.parameters.unpainted = "slices"
    process(lambda: bool(told))


def test_strokes_before_a_rest_are_kept_for_recovery(ready, monkeypatch):
    """No event comes any more, and nothing runs: a timer has to."""
    widget, volume, segmentation, _reference = ready
    monkeypatch.setattr(recovery, "_PAUSE", 0.3)
    finish(widget)
    kept = widget.panel.session.rescue
    kept.note(segmentation, volume)
    kept.note_strokes(segmentation, volume)
    assert 0 < kept.wait < math.inf
    widget.panel.keeping.keep()
    process(lambda: kept.wait == math.inf)


def test_examples_are_checked_in_a_list(app, ready):
    widget, *_ = ready
    ui = widget.ui
    assert not ui.examplesCollapsibleButton.visible
    bare, _ = add_volume(app.scene, "bare")
    other, reference = add_volume(app.scene, "other", seed=2)
    own = node_references.new_segmentation(app.scene, other, "other segmentation")
    node_references.remember(other, own)
    paint_strokes(own, other, reference)
    process()
    assert ui.examplesCollapsibleButton.visible
    items = {ui.examplesList.item(n).text(): ui.examplesList.item(n) for n in range(ui.examplesList.count)}
    assert set(items) == {"bare", "other"}
    assert "no segmentation yet" in items["bare"].toolTip()
    assert not items["bare"].flags() & QtCore.Qt.ItemFlag.ItemIsEnabled
    items["other"].setCheckState(QtCore.Qt.CheckState.Checked)
    assert list(widget.panel.parameters.examples) == [other]
    assert ui.examplesCollapsibleButton.text == "Further examples (1)"
    assert bare not in widget.panel.parameters.examples


def test_choices_are_the_parameter_node_s(app, widget):
    ui, node = widget.ui, widget.panel.parameters
    ui.unpaintedComboBox.currentIndex = 1
    ui.overlapComboBox.currentIndex = 2
    ui.methodComboBox.currentIndex = 2
    ui.modeComboBox.currentIndex = 1
    ui.deviceComboBox.currentIndex = 4
    ui.secondsSpinBox.value = 45.0
    ui.threadsSpinBox.value = 2
    ui.opacitySlider.value = 0.8
    ui.fillHolesCheckBox.checked = True
    ui.smoothingSpinBox.value = 1.5
    ui.hostLineEdit.text = "me@there"
    assert ui.hostLineEdit.visible
    values = (node.unpainted, node.overlap, node.method, node.mode, node.device)
    assert values == ("slices", "overlap", "dvpt", "full", "ssh")
    assert (node.seconds, node.threads, node.opacity, node.fillHoles) == (45.0, 2, 0.8, True)
    assert (node.smoothing, node.host) == (1.5, "me@there")
    node.device, node.seconds = "cpu", 12.0  # the other way round
    process()
    assert ui.deviceComboBox.currentText == "CPU"
    assert "slow" in ui.deviceLabel.text
    assert ui.secondsSpinBox.value == 12.0


def test_the_preview_follows_the_slider(ready):
    widget, *_ = ready
    tune(widget)
    preview = widget.panel.scene.GetFirstNodeByName("PromptSeg preview")
    widget.ui.opacitySlider.value = 0.25
    assert preview.GetDisplayNode().GetOpacity() == 0.25
    assert not preview.GetDisplayNode().GetVisibility3D()
    widget.ui.show3DCheckBox.click()
    assert preview.GetDisplayNode().GetVisibility3D()


# Things that go wrong


@pytest.mark.parametrize("which", ["volume", "segmentation"])
def test_a_node_is_deleted_while_a_job_runs(app, ready, which):
    widget, volume, segmentation, _reference = ready
    ui, session = widget.ui, widget.panel.session
    widget.panel.parameters.seconds = LONG
    ui.tuneButton.click()
    process(lambda: session.view().share > 0)
    app.scene.RemoveNode(volume if which == "volume" else segmentation)
    process()
    finish(widget)
    assert "was removed, so the job was stopped" in said(widget)
    assert not ui.tuneButton.enabled
    assert ui.tuneButton.text == "Tune prompts"
    selector = ui.volumeSelector if which == "volume" else ui.segmentationSelector
    assert selector.currentNode() is None
    assert app.scene.GetFirstNodeByName("PromptSeg preview") is None


def test_the_scene_is_closed_while_a_job_runs(app, ready):
    widget, *_ = ready
    ui, session = widget.ui, widget.panel.session
    widget.panel.parameters.seconds = LONG
    ui.tuneButton.click()
    process(lambda: session.view().share > 0)
    app.scene.Clear(False)
    process()
    finish(widget)
    assert widget.panel.parameters.volume is None
    assert ui.volumeSelector.currentNode() is None
    assert ui.segmentEditorWidget.segmentationNode() is None
    assert not ui.tuneButton.enabled
    volume, reference = add_volume(app.scene, "next")  # and on it goes
    ui.volumeSelector.setCurrentNode(volume)
    paint_strokes(widget.panel.parameters.segmentation, volume, reference)
    process()
    assert ui.tuneButton.enabled


@pytest.mark.training
def test_the_worker_is_killed(ready):
    widget, _volume, segmentation, _reference = ready
    widget.panel.parameters.seconds = LONG
    before = content(segmentation)
    widget.ui.tuneButton.click()
    process(lambda: widget.panel.session.view().share > 0)
    os.kill(widget.panel.session.engine.worker.pid, 9)
    finish(widget)
    assert "ended from outside" in said(widget)
    assert content(segmentation) == before
    widget.panel.parameters.seconds = BRIEF
    tune(widget)


def test_a_damaged_prompts_file(widget, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"no prompts")
    FileDialog.answers = [str(tmp_path / "bad.safetensors"), ""]
    widget.ui.loadButton.click()
    assert "bad.safetensors" in said(widget)
    color = widget.ui.statusLabel.palette.color(QtGui.QPalette.ColorRole.WindowText)
    assert color.red() > 2 * color.green()
    widget.ui.loadButton.click()  # nothing was chosen in the dialog
    assert FileDialog.answers == []
