"""The panel's life: saved, reloaded, closed; what it is made of."""

from __future__ import annotations

import ast
import importlib
import os
import re
import sys
import typing
import xml.etree.ElementTree as ElementTree
from dataclasses import fields
from pathlib import Path

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6")

from PySide6 import QtGui

from harness import slicer_stand_in as stand_in
from harness.panel_fixtures import finish, process, tune
from harness.scene_files import save_scene
from harness.session_harness import LONG
from harness.slicer_stand_in import ROOT
from PromptSegLib.session.inputs import Parameters

pytest_plugins = ["harness.panel_fixtures"]
stand_in.as_in_pythonqt(sys.modules[__name__])

GUI = ROOT / "PromptSegLib" / "gui"
FILES = sorted(GUI.glob("*.py"))
UI = ROOT / "PromptSeg" / "Resources" / "UI" / "PromptSeg.ui"


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
