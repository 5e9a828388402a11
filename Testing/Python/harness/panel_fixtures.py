"""The module's widget, open in an application of PySide6."""

from __future__ import annotations

import os
import sys
import time

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6")

from PySide6 import QtWidgets

from harness import slicer_stand_in as stand_in
from harness.mrml_fixtures import add_volume, paint_strokes
from harness.scene_files import new_scene
from harness.session_harness import BRIEF
from harness.slicer_stand_in import application

stand_in.as_in_pythonqt(sys.modules[__name__])


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
