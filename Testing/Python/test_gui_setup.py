"""The panel's models and packages: downloaded, installed, deleted."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6")

from PySide6 import QtGui

from harness import slicer_stand_in as stand_in
from harness.mrml_fixtures import add_volume, paint_strokes
from harness.panel_fixtures import process, said
from harness.slicer_stand_in import ROOT, FileDialog

pytest_plugins = ["harness.panel_fixtures"]
stand_in.as_in_pythonqt(sys.modules[__name__])


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


NEEDS = """
import pathlib, time
print("collecting", flush=True)
time.sleep(0.2)
folder = pathlib.Path({site!r}) / "promptseg_needs_this-1.5.dist-info"
folder.mkdir()
(folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: promptseg-needs-this\\nVersion: 1.5\\n")
"""


@pytest.fixture
def lacking(app, monkeypatch, tmp_path):
    """The module where a package is missing, which its interpreter's pip installs."""
    site, modules = tmp_path / "site", tmp_path / "modules"
    for folder in (site, modules):
        folder.mkdir()
    (modules / "pip.py").write_text(NEEDS.format(site=str(site)))
    script = modules / "PythonSlicer"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{modules}" exec "{sys.executable}" -S "$@"\n')
    script.chmod(0o755)
    needed = tmp_path / "requirements.txt"
    needed.write_text("numpy>=1.20\n# for the test\npromptseg-needs-this>=1.2\n")
    monkeypatch.syspath_prepend(str(site))
    genuine = stand_in.ScriptedLoadableModuleWidget.resourcePath
    monkeypatch.setattr(
        stand_in.ScriptedLoadableModuleWidget,
        "resourcePath",
        lambda self, name: str(needed) if name == needed.name else genuine(self, name),
    )
    tools = importlib.import_module("PromptSegLib.gui.slicer_tools").SlicerTools
    monkeypatch.setattr(tools, "python", lambda self: str(script))
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


def test_the_panel_opens_where_nothing_is_installed(tmp_path):
    """Before Setup has run there is no torch, no monai and no safetensors."""
    script = """
import sys
for name in ("torch", "monai", "safetensors"):
    sys.modules[name] = None
from harness import slicer_stand_in
from harness.scene_files import new_scene, save_scene
with slicer_stand_in.application(new_scene()) as app:
    app.open_module()
print("open")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=900, cwd=tmp_path
    )
    assert done.stdout.strip() == "open", done.stderr
