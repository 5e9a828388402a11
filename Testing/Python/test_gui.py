"""The panel: the module's real widget on PySide6, clicked through, over a real scene and a real worker."""

from __future__ import annotations

import ast
import importlib
import math
import os
import re
import subprocess
import sys
import time
import typing
import xml.etree.ElementTree as ElementTree
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6")

from PySide6 import QtCore, QtGui, QtWidgets

from harness import slicer_stand_in as stand_in
from harness.mrml_fixtures import add_volume, content, mask_of, paint, paint_strokes
from harness.session_harness import BRIEF, LONG
from harness.slicer_stand_in import ROOT, FileDialog, application
from harness.tiny_model import tiny_backbone
from harness.worker_harness import is_running
from PromptSegLib.scene import links, prompt_nodes
from PromptSegLib.scene.segmentations import segments_by_name
from PromptSegLib.scene.storage import new_scene, save_scene
from PromptSegLib.session import rescue
from PromptSegLib.session.engine import start_worker
from PromptSegLib.session.parameters import Parameters
from PromptSegLib.setup import requirements

GUI = ROOT / "PromptSegLib" / "gui"
FILES = sorted(GUI.glob("*.py"))
UI = ROOT / "PromptSeg" / "Resources" / "UI" / "PromptSeg.ui"

stand_in.as_in_pythonqt(sys.modules[__name__])


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_backbone(folder, shipped=True)
    return folder / "tiny0.safetensors"


@pytest.fixture
def app():
    with application(new_scene()) as app:
        yield app


@pytest.fixture
def widget(app, model, workers):
    """The module, open, with the tiny model, a small budget, and a worker that the tests share."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    widget = app.open_module()
    widget.panel.session.engine._make = workers
    parameters = widget.panel.parameters
    parameters.model, parameters.device, parameters.seconds = str(model), "cpu", BRIEF
    app.window.resize(440, 1300)
    app.window.show()
    process()
    return widget


@pytest.fixture
def own_worker(widget) -> None:
    """The panel starts its worker as in the application, and ends it; to be named before ``ready``."""
    widget.panel.session.engine._make = start_worker


@pytest.fixture
def ready(app, widget):
    """A volume with strokes; gives widget, volume, segmentation and reference."""
    volume, reference = add_volume(app.scene)
    widget.ui.volumeSelector.setCurrentNode(volume)
    segmentation = widget.panel.parameters.segmentation
    paint_strokes(segmentation, volume, reference)
    process()
    return widget, volume, segmentation, reference


def process(until=None, seconds: float = 900.0) -> None:
    """Let events come, for a moment or until something is true."""
    end = time.monotonic() + (0.05 if until is None else seconds)
    while not until() if until is not None else time.monotonic() < end:
        QtWidgets.QApplication.processEvents()
        time.sleep(0.005)
        assert until is None or time.monotonic() < end, "it never came"
    QtWidgets.QApplication.processEvents()


def finish(widget) -> None:
    """Wait until nothing is running any more."""
    process(lambda: not widget.panel.session.busy)


def tune(widget) -> None:
    widget.panel.actions._clicked = 0.0  # somewhat later
    widget.ui.tuneButton.click()
    finish(widget)
    assert widget.ui.applyButton.enabled, widget.ui.statusLabel.text


def said(widget) -> str:
    """The one line on how things stand."""
    return widget.ui.statusLabel.text


# The whole job


def test_from_strokes_to_corrected_segments(own_worker, ready, tmp_path):
    widget, volume, segmentation, _reference = ready
    ui, session = widget.ui, widget.panel.session
    assert ui.tuneButton.text == "Tune prompts"
    assert ui.tuneButton.enabled
    assert not ui.applyButton.enabled

    # The first preview comes while the job is running; cancelling then leaves everything as it was.
    before = content(segmentation)
    ui.secondsSpinBox.value = LONG
    ui.tuneButton.click()
    assert ui.tuneButton.text == "Cancel"
    assert ui.tuneProgressBar.visible
    process(lambda: bool(session.view().preview) or not session.busy)
    assert session.view().shows == "early"
    assert said(widget).startswith("Tuning prompts")
    process(lambda: not ui.curveLabel.pixmap.isNull() or not session.busy)  # of the tuning's steps
    assert session.busy and len(session.view().curve) > 1
    widget.panel.actions._clicked = 0.0  # somewhat later
    ui.tuneButton.click()
    assert ui.tuneButton.text == "Tune prompts"
    assert said(widget) == "Cancelled; nothing was changed."
    assert not session.view().preview
    finish(widget)
    assert content(segmentation) == before

    widget.panel.parameters.seconds = BRIEF
    tune(widget)
    assert said(widget).startswith("Done in ")
    assert session.view().preview == "Result"
    assert content(segmentation) == before
    ui.applyButton.click()
    finish(widget)
    assert said(widget).startswith("Applied ball, rod.")
    assert mask_of(segmentation, volume, "ball").sum() > 100
    assert ui.tuneButton.text == "Retune"
    process()
    assert ui.undoButton.enabled

    # A correction: what was erased stays away.
    applied = content(segmentation)
    mask = mask_of(segmentation, volume, "ball")
    z, y, x = (int(np.median(part)) for part in np.nonzero(mask))
    wrong = np.zeros(mask.shape, np.uint8)
    wrong[z - 1 : z + 2, y - 2 : y + 2, x - 2 : x + 2] = 1
    ui.segmentEditorWidget.saveStateForUndo()
    paint(segmentation, volume, wrong, {"ball": 1}, "erase")
    erased = content(segmentation)
    tune(widget)
    ui.applyButton.click()
    finish(widget)
    retuned = content(segmentation)
    assert retuned != erased
    assert not mask_of(segmentation, volume, "ball")[wrong > 0].any()

    # Results and strokes are steps of one history.
    ui.undoButton.click()
    assert content(segmentation) == erased
    ui.undoButton.click()
    assert content(segmentation) == applied
    ui.redoButton.click()
    ui.redoButton.click()
    assert content(segmentation) == retuned
    assert not ui.redoButton.enabled
    assert "nothing to redo" in ui.redoButton.toolTip

    # Prompts.
    names = [ui.promptsTree.topLevelItem(n).text(0) for n in range(ui.promptsTree.topLevelItemCount)]
    assert names[-1] == f"{segmentation.GetName()} prompts"
    ui.promptsTree.topLevelItem(len(names) - 1).setSelected(True)
    FileDialog.answers = [str(tmp_path / "mine.safetensors"), str(tmp_path / "mine.safetensors")]
    ui.saveButton.click()
    assert said(widget).startswith("Saved mine.safetensors")
    ui.loadButton.click()
    assert said(widget) == "Loaded 'mine'."

    # Closing ends the worker's process, whatever it is doing.
    ui.secondsSpinBox.value = LONG
    ui.tuneButton.click()
    process(lambda: session.view().share > 0)
    worker = session.engine.worker
    widget.cleanup()
    process(lambda: worker.gone and not is_running(worker.pid))


def test_where_to_look(ready):
    widget, *_ = ready
    ui = widget.ui
    assert not ui.lookButton.enabled
    assert not ui.mapCheckBox.enabled
    tune(widget)
    assert ui.lookButton.enabled
    assert "place" in ui.lookLabel.text
    ui.lookButton.click()
    assert ui.lookLabel.text.startswith("Place 1 of ")
    ui.mapCheckBox.click()
    assert widget.panel.session.view().map_shown
    assert ui.mapCheckBox.checked
    ui.mapCheckBox.click()
    assert not widget.panel.session.view().map_shown
    ui.discardButton.click()
    assert said(widget) == "Discarded; nothing was changed."


def test_shipped_prompts_segment_this_volume_and_others(app, ready):
    widget, volume, _segmentation, _reference = ready
    ui = widget.ui
    other, _ = add_volume(app.scene, "other", seed=3)
    key = prompt_nodes.add_prompts(app.scene, _shipped(widget), "borrowed").GetID()
    process()
    assert ui.volumesCollapsibleButton.visible
    assert not ui.segmentVolumesButton.enabled
    ui.volumesList.item(0).setCheckState(QtCore.Qt.CheckState.Checked)
    assert ui.segmentVolumesButton.enabled or ui.segmentVolumesButton.toolTip
    for n in range(ui.promptsTree.topLevelItemCount):
        item = ui.promptsTree.topLevelItem(n)
        item.setSelected(item.data(0, QtCore.Qt.ItemDataRole.UserRole) == key)
    if not ui.segmentVolumesButton.enabled:  # the tiny model is no model of the catalogue
        pytest.fail(ui.segmentVolumesButton.toolTip)
    ui.segmentVolumesButton.click()
    finish(widget)
    made = links.remembered(other)
    assert set(segments_by_name(made)) == {"liver", "spleen", "aorta"}
    assert widget.panel.parameters.volume is volume


def _shipped(widget):
    from PromptSegLib.prompts.store import Prompts

    return Prompts.load(Path(widget.panel.parameters.model).with_suffix(".prompts.safetensors"))


def test_prompts_are_renamed_and_deleted_in_the_list(app, widget, model):
    node = prompt_nodes.add_prompts(app.scene, _shipped(widget), "mine")
    process()
    ui = widget.ui
    item = next(
        ui.promptsTree.topLevelItem(n)
        for n in range(ui.promptsTree.topLevelItemCount)
        if ui.promptsTree.topLevelItem(n).text(0) == "mine"
    )
    ui.promptsTree.clearSelection()
    assert "Select prompts" in ui.deletePromptsButton.toolTip
    item.setSelected(True)
    item.setText(0, "yours")
    assert node.GetName() == "yours"
    process()
    assert ui.deletePromptsButton.enabled
    ui.deletePromptsButton.click()
    assert app.scene.GetNodeByID(node.GetID() or "") is None
    assert said(widget).startswith("Deleted the prompts")


# What is possible when


def test_disabled_buttons_say_why(app, widget):
    ui = widget.ui
    for name, reason in (
        ("tuneButton", "Choose a volume first."),
        ("segmentButton", "Choose a volume first."),
        ("applyButton", "There is no preview; tune first."),
        ("discardButton", "There is no preview; tune first."),
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
    assert own is links.remembered(first)
    ui.volumeSelector.setCurrentNode(second)
    assert parameters.segmentation is links.remembered(second) is not own
    assert ui.segmentEditorWidget.segmentationNode() is parameters.segmentation
    assert ui.segmentEditorWidget.sourceVolumeNode() is second
    ui.volumeSelector.setCurrentNode(first)
    assert parameters.segmentation is own
    assert ui.segmentationSelector.currentNode() is own
    ui.newSegmentationButton.click()
    assert parameters.segmentation is links.remembered(first) is not own


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
    widget.panel._stroke()  # as the editor's event does; the fixture painted before the panel had looked
    session = widget.panel.session
    process(lambda: session.view().preview != "")
    assert session.view().preview == "Grown from strokes; Tune prompts refines it"
    finish(widget)
    assert ui.tuneButton.text == "Tune prompts" and ui.tuneButton.enabled and ui.applyButton.enabled
    assert not ui.tuneProgressBar.visible and said(widget).startswith("Grown from strokes; Tune prompts refines it.")
    assert session.view().remarks and said(widget).endswith(session.view().remarks)
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


def test_strokes_before_a_rest_are_kept_for_recovery(ready, monkeypatch):
    """No event comes any more, and nothing runs: a timer has to."""
    widget, volume, segmentation, _reference = ready
    monkeypatch.setattr(rescue, "_PAUSE", 0.3)
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
    own = links.new_segmentation(app.scene, other, "other segmentation")
    links.remember(other, own)
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


# The module's life


def test_saved_and_reopened(app, ready, tmp_path):
    widget, volume, _segmentation, _reference = ready
    tune(widget)
    widget.ui.applyButton.click()
    finish(widget)
    widget.ui.unpaintedComboBox.currentIndex = 1
    save_scene(app.scene, tmp_path / "scene.mrb")
    app.scene.Clear(False)
    process()
    assert app.scene.ReadFromMRB(str(tmp_path / "scene.mrb"), True)
    process()
    parameters = widget.panel.parameters
    assert parameters.volume is not None
    assert parameters.volume.GetName() == "CT"
    assert parameters.unpainted == "slices"
    assert widget.ui.unpaintedComboBox.currentIndex == 1
    assert widget.ui.volumeSelector.currentNode() is parameters.volume
    assert widget.ui.segmentEditorWidget.segmentationNode() is parameters.segmentation
    assert widget.ui.tuneButton.text == "Retune"
    tune(widget)


def test_shortcuts_go_with_the_module(app, ready):
    widget, *_ = ready
    own = {each.toString() for each in map(QtGui.QKeySequence, (QtGui.QKeySequence.Undo, QtGui.QKeySequence.Redo))}
    both = [each for each in app.window.findChildren(QtGui.QShortcut) if each.enabled]
    shortcuts = [each for each in both if each.key.toString() not in own]
    keys = {each.key.toString() for each in shortcuts}
    assert len(keys) == len(shortcuts) == 7 and len(both) == 9  # the editor's own for undo and redo are set aside
    # The Segment Editor's own, and those of Slicer's toolbars.
    taken = {"Ctrl+Shift+A", "Ctrl+Shift+T", "Ctrl+Shift+Space", "Ctrl+Shift+Z", "Ctrl+Z", "Ctrl+Y"}
    taken |= {f"Ctrl+Shift+{arrow}" for arrow in ("Down", "Left", "Right")}
    assert not keys & taken
    assert all(key.startswith("Ctrl+Shift+") for key in keys)
    next(each for each in shortcuts if each.key.toString() == "Ctrl+Shift+P").activated.emit()
    assert widget.panel.session.view().busy
    assert widget.ui.segmentEditorWidget.with_shortcuts
    widget.exit()
    process()
    assert app.window.findChildren(QtGui.QShortcut) == []
    assert not widget.ui.segmentEditorWidget.with_shortcuts
    assert not widget.ui.segmentEditorWidget.entered
    finish(widget)  # the job goes on meanwhile
    widget.enter()
    widget.enter()
    assert len([each for each in app.window.findChildren(QtGui.QShortcut) if each.enabled]) == 9
    assert widget.ui.applyButton.enabled


def test_reload_drops_the_library(app, widget):
    assert "PromptSegLib.gui.panel" in sys.modules
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "PromptSegLib"}
    try:
        widget.onReload()
        assert widget.reloaded == 1
        assert not [name for name in sys.modules if name.split(".")[0] == "PromptSegLib"]
    finally:
        sys.modules.update(kept)


def test_closing_ends_everything(app, ready):
    widget, *_ = ready
    widget.panel.parameters.seconds = LONG
    widget.ui.tuneButton.click()
    process(lambda: widget.panel.session.view().share > 0)
    widget.cleanup()
    assert not widget.panel.session.busy
    assert app.scene.GetFirstNodeByName("PromptSeg preview") is None
    app.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "later")  # nobody listens any more
    process()
    widget.cleanup()


# Models


def test_the_model_says_what_it_is(widget):
    from PromptSegLib.models import catalogue

    ui = widget.ui
    widget.panel.parameters.model = ""
    process()
    assert ui.modelComboBox.currentText == "CT body, 19 structures"
    seconds = catalogue.entries()[0].expected["cpu"]
    for part in ("CT", "19 classes", f"{seconds:.0f} s for a large CT", "CC BY 4.0"):
        assert part in ui.modelLabel.text
    assert "liver" in ui.modelLabel.toolTip and "MIT" in ui.modelLabel.toolTip
    assert len(ui.modelLabel.text) < 130
    assert not ui.downloadButton.visible
    assert not ui.deleteModelButton.visible


def test_a_model_is_downloaded_and_deleted(widget, monkeypatch, tmp_path):
    import threading
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    from PromptSegLib.models import catalogue

    served = tmp_path / "served"
    served.mkdir()
    (served / "far.safetensors").write_bytes(b"weights" * 1000)
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: handler(*a, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    listed = tmp_path / "catalogue.json"
    entry = {
        "name": "far",
        "title": "Far away",
        "url": f"http://127.0.0.1:{server.server_address[1]}/far.safetensors",
        "sha256": catalogue.sha256_of(served / "far.safetensors"),
        "size": 7000,
        "modality": "MR",
        "spacing": [1.0, 1.0, 1.0],
        "classes": ["heart"],
        "licence": "CC0",
    }
    import json

    listed.write_text(json.dumps({"schema": 1, "models": [entry]}))
    monkeypatch.setattr(catalogue, "CATALOGUE", listed)
    monkeypatch.setenv("PROMPTSEG_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    ui = widget.ui
    widget.panel.parameters.model = "far"
    process()
    assert ui.downloadButton.visible
    assert "not downloaded" in ui.modelLabel.text
    volume, _ = add_volume(widget.panel.scene)
    ui.volumeSelector.setCurrentNode(volume)
    assert "click Download" in ui.tuneButton.toolTip
    ui.downloadButton.click()
    process(lambda: not widget.panel.models.running)
    server.shutdown()
    assert said(widget) == "Downloaded Far away."
    assert (tmp_path / "models" / "far.safetensors").is_file()
    assert not ui.downloadButton.visible
    assert ui.deleteModelButton.visible
    ui.deleteModelButton.click()
    assert said(widget) == "Deleted the model's files."
    assert not (tmp_path / "models" / "far.safetensors").exists()
    assert ui.downloadButton.visible
    ui.downloadButton.click()  # the server is gone
    server.server_close()
    process(lambda: not widget.panel.models.running)
    assert "far.safetensors" in said(widget) or "127.0.0.1" in said(widget)


# Setup


class FakeRun:
    """An installation of one package that takes some polls."""

    def __init__(self, done):
        self._left, self._done, self.returncode = ["collecting", "Progress 1 of 2", "installing"], done, None

    def lines(self):
        if self._left:
            return [self._left.pop(0)]
        if self.returncode is None:
            self._done()
            self.returncode = 0
        return []

    def cancel(self):
        self._left, self.returncode = [], 1


class FakeTools:
    kept = ""

    def __init__(self, site: Path):
        self.site = site

    def torch_extension(self):
        return "ready"

    def install_torch_extension(self):
        return ""

    def install_torch(self, requirement, arguments, constraints):
        raise AssertionError("torch is here")

    def pip_install(self, arguments, constraints):
        return FakeRun(self._install)

    def _install(self):
        folder = self.site / "promptseg_needs_this-1.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: promptseg-needs-this\nVersion: 1.5\n")

    def remember(self, what):
        FakeTools.kept = what

    def remembered(self):
        return FakeTools.kept


@pytest.fixture
def lacking(app, monkeypatch, tmp_path):
    """The module where a package is missing, which a fake installs."""
    site = tmp_path / "site"
    site.mkdir()
    needed = tmp_path / "requirements.txt"
    needed.write_text("numpy>=1.20\n# for the test\npromptseg-needs-this>=1.2\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(requirements, "find_requirements_file", lambda: needed)
    slicer_tools = importlib.import_module("PromptSegLib.gui.slicer_tools")
    monkeypatch.setattr(slicer_tools, "SlicerTools", lambda: FakeTools(site))
    FakeTools.kept = ""
    app.window.resize(440, 1400)
    app.window.show()
    return app


def test_setup_is_hidden_where_nothing_is_missing(widget):
    assert not widget.ui.setupCollapsibleButton.visible


def test_setup_installs_what_is_missing(lacking):
    widget = lacking.open_module()
    ui = widget.ui
    process()
    assert ui.setupCollapsibleButton.visible
    rows = [ui.requirementsTree.topLevelItem(n) for n in range(ui.requirementsTree.topLevelItemCount)]
    assert [(row.text(0), row.text(2) == "missing") for row in rows] == [
        ("numpy", False),
        ("promptseg-needs-this", True),
    ]
    assert "click Install" in ui.setupNotice.text
    volume, reference = add_volume(lacking.scene)
    ui.volumeSelector.setCurrentNode(volume)
    paint_strokes(widget.panel.parameters.segmentation, volume, reference)
    process()
    assert "click Install in Setup" in ui.tuneButton.toolTip
    next(each for each in lacking.window.findChildren(QtGui.QShortcut) if "P" in each.key.toString()).activated.emit()
    assert "click Install in Setup" in said(widget)
    ui.installButton.click()
    assert ui.installButton.text == "Cancel"
    assert not ui.wheelsButton.enabled
    process(lambda: bool(ui.setupLog.plainText))
    assert "collecting" in ui.setupLog.plainText
    process(lambda: not widget.panel.setup.running)
    assert not ui.setupCollapsibleButton.visible
    assert ui.tuneButton.enabled


def test_an_installation_is_cancelled_and_taken_up_again(lacking):
    widget = lacking.open_module()
    ui = widget.ui
    ui.installButton.click()
    ui.installButton.click()
    process(lambda: not widget.panel.setup.running)
    assert ui.setupCollapsibleButton.visible
    assert "was cancelled" in ui.setupNotice.text
    assert ui.installButton.text == "Install"
    FileDialog.answers = [""]
    ui.wheelsButton.click()
    assert not widget.panel.setup.running


def test_an_installation_goes_on_after_a_restart(lacking):
    FakeTools.kept = "restart after 0"
    widget = lacking.open_module()
    process()
    assert widget.ui.installButton.text == "Go on installing"
    assert "restarted" in widget.ui.setupNotice.text


def test_the_panel_opens_where_nothing_is_installed(tmp_path):
    """Before Setup has run there is no torch, no monai and no safetensors."""
    script = """
import sys
for name in ("torch", "monai", "safetensors"):
    sys.modules[name] = None
from harness import slicer_stand_in
from PromptSegLib.scene.storage import new_scene, save_scene
with slicer_stand_in.application(new_scene()) as app:
    app.open_module()
print("open")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=900, cwd=tmp_path
    )
    assert done.stdout.strip() == "open", done.stderr


# What it is made of


def test_parameter_node_and_parameters_agree(app):
    described = importlib.import_module("PromptSeg").PromptSegParameterNode.described
    hints = typing.get_type_hints(described)
    known = {each.name: each for each in fields(Parameters)}
    assert set(hints) == set(known)
    defaults, types = Parameters(), typing.get_type_hints(Parameters)
    for name in known:
        if hasattr(described, name):
            assert getattr(described, name) == getattr(defaults, name)
            assert type(getattr(described, name)) is type(getattr(defaults, name)) is hints[name]
            assert types[name] is hints[name]
        elif name == "examples":
            assert typing.get_origin(hints[name]) is list
        else:
            assert getattr(defaults, name) is None
            assert hints[name].__name__.startswith("vtkMRML")


def test_parameter_names_in_the_ui_are_fields():
    names = [
        each.findtext("string")
        for each in ElementTree.parse(UI).iter("property")
        if each.get("name") == "SlicerParameterName"
    ]
    assert len(names) == len(set(names)) > 5
    assert set(names) <= {each.name for each in fields(Parameters)}


def test_widget_names_are_camel_case_and_unique():
    names = [each.get("name") for each in ElementTree.parse(UI).iter("widget")][1:]
    assert len(names) == len(set(names))
    for name in names:
        assert re.fullmatch(r"[a-z][A-Za-z0-9]*", name), name
    code = "".join(path.read_text(encoding="utf-8") for path in FILES)
    used = set(re.findall(r"\bui\.([a-z]\w+)", code))
    assert used <= set(names), used - set(names)


def test_the_ui_has_no_styling_of_its_own():
    text = UI.read_text(encoding="utf-8")
    assert "styleSheet" not in text
    assert "<color" not in text


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_all_texts_are_translated(path):
    """Whatever reads like a text for users stands inside of _()."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    translated = {
        id(inside)
        for call in ast.walk(module)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "_"
        for inside in ast.walk(call)
    }
    documented = {
        id(node.body[0].value)
        for node in ast.walk(module)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    widgets = any(isinstance(node, ast.Import) and node.names[0].name == "qt" for node in ast.walk(module))
    if not widgets or path.name == "slicer_tools.py":
        return  # no widgets: templates, which test_translations extracts and the panel shows through _()
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented | translated:
            assert not re.search(r"[A-Za-z]{2,} [A-Za-z]{2,}", node.value), node.value


def test_what_is_shown_went_through_the_translation(ready):
    widget, *_ = ready
    stand_in.TRANSLATED.clear()
    widget.ui.tuneButton.click()
    widget.panel.actions._clicked = 0.0
    widget.ui.tuneButton.click()
    process()
    assert widget.ui.statusLabel.text in stand_in.TRANSLATED
    assert widget.ui.tuneButton.text in stand_in.TRANSLATED


def test_the_module_imports_nothing_heavy():
    module = ast.parse((ROOT / "PromptSeg" / "PromptSeg.py").read_text(encoding="utf-8"))
    top = set()
    for node in module.body:
        if isinstance(node, ast.Import):
            top |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            top.add((node.module or "").split(".")[0])
    assert top - set(sys.stdlib_module_names) == {"slicer"}


def test_sample_data_is_registered_when_the_application_has_started(app, monkeypatch):
    module = importlib.import_module("PromptSeg")
    parent = type("Parent", (), {"path": str(ROOT / "PromptSeg" / "PromptSeg.py")})()
    module.PromptSeg(parent)
    assert app.started == [module.registerSampleData]
    registered = []
    sample_data = importlib.import_module("PromptSegLib.gui.sample_data")
    monkeypatch.setattr(sample_data, "register", lambda: registered.append(1))
    app.started[0]()
    assert registered == [1]
    assert parent.title == "PromptSeg"


def test_the_library_is_found_from_a_folder_added_by_hand(app, monkeypatch):
    """Slicer then searches the module's own folder only."""
    without = [each for each in sys.path if Path(each or ".").resolve() != ROOT]
    monkeypatch.setattr(sys, "path", without)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    importlib.import_module("PromptSeg")
    assert sys.path[-1] == str(ROOT)


def test_screenshots(ready, app, tmp_path):
    """For the eye; here only that something was drawn."""
    widget, *_ = ready
    app.window.grab().save(str(tmp_path / "ready.png"))
    tune(widget)
    process()
    app.window.grab().save(str(tmp_path / "result.png"))
    image = QtGui.QImage(str(tmp_path / "result.png"))
    colors = {image.pixel(x, y) for x in range(0, image.width(), 5) for y in range(0, image.height(), 5)}
    assert len(colors) > 20


def test_a_model_of_its_own_is_offered_made_and_given_away(app, ready, tmp_path, monkeypatch):
    from PromptSegLib.models import folders
    from PromptSegLib.session import learned

    monkeypatch.setenv(folders.FOLDERS_VARIABLE, str(tmp_path / "models"))
    widget, _volume, segmentation, _reference = ready
    ui = widget.ui
    assert not ui.specializeButton.visible and not ui.specializeLabel.visible and not ui.shareModelButton.visible
    tune(widget)
    ui.applyButton.click()
    finish(widget)
    widget.panel.session.other_volumes()
    finish(widget)
    node = learned.node_of(segmentation)
    node.SetAttribute(learned.COUNT, "3")
    node.SetAttribute(learned.AGREED, "0.41")
    widget.panel.render()
    assert "agree to 41%" in ui.specializeLabel.text
    assert not ui.specializeButton.enabled and ui.specializeButton.toolTip.startswith("Type a name")
    ui.specializeLineEdit.text = "mine"
    widget.panel.render()
    assert ui.specializeButton.enabled
    ui.specializeButton.click()
    finish(widget)
    assert "needs 3 annotated volumes or more, and here are 1" in said(widget)  # the node's count is this test's

    FileDialog.answers = [str(tmp_path / "letter.zip")]
    (tmp_path / "letter.zip").write_text("a letter")
    ui.addModelButton.click()
    assert "is not a shared model" in said(widget)
