"""The whole job inside the application: load, tune, cancel, undo, correct, retune, save and reopen.

Run by ``ctest``, or in Slicer's Python console::

    import slicer.testing
    slicer.testing.runUnitTest(["/path/to/Testing/Python"], "PromptSegModuleTest")
"""

import os
import tempfile
import time

import numpy as np
import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest

BALL, ROD = (15, 24, 22), (20, 20)
SECONDS, LIMIT = 4.0, 300.0


class PromptSegModuleTest(ScriptedLoadableModuleTest):
    """Clicks through the panel with the bundled model and a synthetic scan of a bright ball and a dark rod."""

    def setUp(self):
        slicer.mrmlScene.Clear()
        slicer.util.selectModule("PromptSeg")
        self.panel = slicer.modules.PromptSegWidget.panel
        self.ui, self.session = self.panel.ui, self.panel.session
        if self.panel.setup.missing:
            said = "Packages are missing: open PromptSeg and click Install in Setup, then run this test again."
            (self.fail if os.environ.get("PROMPTSEG_SKIP_NOTHING") else self.skipTest)(said)
        self.volume, self.truth = self._scan()
        self.ui.volumeSelector.setCurrentNode(self.volume)
        self.segmentation = self.panel.parameters.segmentation
        self.ui.secondsSpinBox.value = SECONDS
        self._paint()

    def tearDown(self):
        self.session.cancel()
        self._wait(lambda: not self.session.busy)
        slicer.mrmlScene.Clear()

    def test_tune_cancel_apply_undo(self):
        before = self._voxels("ball")
        self.ui.tuneButton.click()
        self.assertEqual(self.ui.tuneButton.text, "Cancel")
        self._wait(lambda: bool(self.session.view().preview))
        time.sleep(0.6)  # the second half of a double click cancels nothing
        clicked = time.monotonic()
        self.ui.tuneButton.click()
        self.assertFalse(self.session.view().busy)
        self.assertLess(time.monotonic() - clicked, 1.0)
        self.assertIn("Cancelled", self.ui.statusLabel.text)
        np.testing.assert_array_equal(self._voxels("ball"), before)

        self._tune()
        np.testing.assert_array_equal(self._voxels("ball"), before)  # so far it is a preview
        self._apply()
        applied = self._voxels("ball")
        self.assertGreater(self._dice("ball"), 0.8)
        self.ui.undoButton.click()
        np.testing.assert_array_equal(self._voxels("ball"), before)
        self.ui.redoButton.click()
        np.testing.assert_array_equal(self._voxels("ball"), applied)

    def test_correct_and_retune(self):
        self._tune()
        self._apply()
        self.assertEqual(self.ui.tuneButton.text, "Retune")
        wrong = np.zeros(self.truth.shape, bool)
        z, y, x = BALL
        wrong[z - 1 : z + 2, y - 2 : y + 3, x - 2 : x + 3] = True
        self.ui.segmentEditorWidget.saveStateForUndo()
        self._set("ball", self._voxels("ball") & ~wrong)
        self._tune()
        self._apply()
        self.assertFalse((self._voxels("ball") & wrong).any())
        self.ui.lookButton.click()
        self.ui.mapCheckBox.click()
        self.assertTrue(self.session.view().map_shown)
        self.ui.mapCheckBox.click()

    def test_save_and_reopen(self):
        self._tune()
        self._apply()
        applied = self._voxels("ball")
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "scene.mrb")
            self.assertTrue(slicer.util.saveScene(path))
            slicer.mrmlScene.Clear()
            self.assertIsNone(self.panel.parameters.volume)
            slicer.util.loadScene(path)
        self.volume, self.segmentation = self.panel.parameters.volume, self.panel.parameters.segmentation
        self.assertIsNotNone(self.volume)
        np.testing.assert_array_equal(self._voxels("ball"), applied)
        self._wait(lambda: self.ui.tuneButton.text == "Retune")
        self.assertTrue(any(row.current for row in self.session.view().prompts))
        self._tune()

    def test_removed_while_running(self):
        self.ui.tuneButton.click()
        self._wait(lambda: self.session.view().share > 0)
        slicer.mrmlScene.RemoveNode(self.volume)
        self._wait(lambda: not self.session.busy)
        self._wait(lambda: "removed" in self.ui.statusLabel.text)

    def _scan(self):
        """A volume node of 3 mm and what is in it: 1 ball, 2 rod."""
        z, y, x = np.ogrid[:30, :48, :48]
        truth = np.zeros((30, 48, 48), np.uint8)
        truth[((y - ROD[0]) ** 2 + (x - 40) ** 2 < 16) & (z > -1)] = 2
        truth[(z - BALL[0]) ** 2 + (y - BALL[1]) ** 2 + (x - BALL[2]) ** 2 < 81] = 1
        values = np.array([0, 140, -90])[truth] + np.random.default_rng(0).normal(0, 8, truth.shape)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "scan")
        node.SetSpacing(3, 3, 3)
        node.CreateDefaultDisplayNodes()
        slicer.util.updateVolumeFromArray(node, values.astype(np.int16))
        return node, truth

    def _paint(self):
        """Strokes in three slices."""
        strokes = np.zeros(self.truth.shape, bool)
        strokes[9:22:6, ::3] = True
        far = np.zeros(self.truth.shape, bool)
        far[9:22:6, 2:6] = far[9:22:6, :, 2:5] = True
        self._set("ball", strokes & (self.truth == 1))
        self._set("rod", strokes & (self.truth == 2))
        self._set("background", far & (self.truth == 0))

    def _set(self, name, mask):
        segmentation = self.segmentation.GetSegmentation()
        segment_id = segmentation.GetSegmentIdBySegmentName(name) or segmentation.AddEmptySegment("", name)
        slicer.util.updateSegmentBinaryLabelmapFromArray(
            mask.astype(np.uint8), self.segmentation, segment_id, self.volume
        )
        slicer.app.processEvents()

    def _voxels(self, name):
        segment_id = self.segmentation.GetSegmentation().GetSegmentIdBySegmentName(name)
        return slicer.util.arrayFromSegmentBinaryLabelmap(self.segmentation, segment_id, self.volume) > 0

    def _dice(self, name):
        found, wanted = self._voxels(name), self.truth == {"ball": 1, "rod": 2}[name]
        return 2 * (found & wanted).sum() / (found.sum() + wanted.sum())

    def _tune(self):
        self.panel.render()
        self.assertTrue(self.ui.tuneButton.enabled, self.ui.tuneButton.toolTip)
        self.ui.tuneButton.click()
        self._wait(lambda: not self.session.busy)
        self.assertTrue(self.ui.applyButton.enabled, self.ui.statusLabel.text)

    def _apply(self):
        self.ui.applyButton.click()
        self._wait(lambda: not self.session.busy)
        self.assertIn("Applied", self.ui.statusLabel.text)

    def _wait(self, until):
        end = time.monotonic() + LIMIT
        while not until():
            slicer.app.processEvents()
            time.sleep(0.01)
            self.assertLess(time.monotonic(), end, "it never came")
        slicer.app.processEvents()
