"""The panel: the module's real widget on PySide6, clicked through, over a real scene and a real worker."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6")

from PySide6 import QtCore

from harness import slicer_stand_in as stand_in
from harness.mrml_fixtures import add_volume, brisk_worker, content, mask_of, paint
from harness.panel_fixtures import finish, process, said, tune
from harness.scene_nodes import segments_by_name
from harness.session_harness import BRIEF, LONG
from harness.slicer_stand_in import FileDialog
from harness.worker_harness import is_running
from PromptSegLib.scene import node_references, prompt_nodes

pytest_plugins = ["harness.panel_fixtures"]
stand_in.as_in_pythonqt(sys.modules[__name__])


@pytest.fixture
def own_worker(widget) -> None:
    """The panel starts a worker of its own and ends it, as in the application; to be named before ``ready``."""
    widget.panel.session.engine._make = brisk_worker


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
    made = node_references.remembered(other)
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


def test_a_model_of_its_own_is_offered_made_and_given_away(app, ready, tmp_path, monkeypatch):
    from PromptSegLib.models import folders
    from PromptSegLib.session import applied

    monkeypatch.setenv(folders.FOLDERS_VARIABLE, str(tmp_path / "models"))
    widget, _volume, segmentation, _reference = ready
    ui = widget.ui
    assert not ui.specializeButton.visible and not ui.specializeLabel.visible and not ui.shareModelButton.visible
    tune(widget)
    ui.applyButton.click()
    finish(widget)
    widget.panel.session.other_volumes()
    finish(widget)
    node = applied.learned_node(segmentation)
    node.SetAttribute(applied.LEARNED_COUNT, "3")
    node.SetAttribute(applied.LEARNED_AGREED, "0.41")
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
