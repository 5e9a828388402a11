import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import slicer
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

# The library lies next to this file in Slicer's build and install trees. Where the folder of this file was added by
# hand under Additional module paths, it lies next to that folder, which Slicer does not search.
if importlib.util.find_spec("PromptSegLib") is None:
    sys.path.append(str(Path(__file__).resolve().parents[1]))


#
# PromptSeg
#


class PromptSeg(ScriptedLoadableModule):
    """What the application knows of the module before it is opened."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("PromptSeg")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations", "SegmentEditor"]
        self.parent.contributors = ["PromptSeg maintainers"]
        self.parent.helpText = _(
            "Paint a few voxels of a structure, click Tune prompts, and get the structure: small prompts of a frozen, "
            "pretrained 3D network are tuned to what you painted. For research, not for diagnosis. "
            'See the <a href="https://github.com/PromptSeg/SlicerPromptSeg">documentation</a>.'
        )
        self.parent.acknowledgementText = _(
            "Its prompts follow PUNet (Fischer et al. 2024), DVPT (He et al. 2025) and EPT (Zu et al. 2024), "
            "and stands on MONAI, PyTorch and SimpleITK."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Add the tutorial's data to the Sample Data module; nothing is downloaded before the user asks for it."""
    from PromptSegLib.gui.sample_data import register

    register()


#
# PromptSegParameterNode
#


@parameterNodeWrapper
class PromptSegParameterNode:
    """The user's choices, saved with the scene: those of ``PromptSegLib.session.inputs.Parameters``."""

    volume: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    model: str = ""
    device: str = "auto"
    host: str = ""
    unpainted: str = "unknown"
    method: str = "auto"
    mode: str = "decoder"
    seconds: Annotated[float, WithinRange(1.0, 3600.0)] = 30.0
    threads: Annotated[int, WithinRange(0, 256)] = 0
    overlap: str = "keep"
    largestComponent: bool = False
    fillHoles: bool = False
    smoothing: Annotated[float, WithinRange(0.0, 10.0)] = 0.0
    opacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.5
    show3D: bool = False
    live: bool = True
    examples: list[vtkMRMLScalarVolumeNode]


#
# PromptSegWidget
#


class PromptSegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Brings the panel to the application: what it shows and does is in ``PromptSegLib.gui.panel``."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None

    def setup(self) -> None:
        """Called when the user opens the module for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        from PromptSegLib.gui.panel import Panel

        uiWidget = slicer.util.loadUI(self.resourcePath("UI/PromptSeg.ui"))
        self.layout.addWidget(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = PromptSegLogic()
        self.panel = Panel(uiWidget, slicer.mrmlScene, self.resourcePath("requirements.txt"))
        self.ui = self.panel.ui
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the application closes, and before the module is reloaded."""
        self.removeObservers()
        if self.panel is not None:
            self.panel.close()

    def enter(self) -> None:
        """Called each time the user opens this module."""
        self.initializeParameterNode()
        self.panel.enter()

    def exit(self) -> None:
        """Called each time the user opens a different module."""
        self.panel.exit()

    def onSceneStartClose(self, caller, event) -> None:
        """Called just before the scene is closed."""
        self.panel.scene_closing()

    def onSceneEndClose(self, caller, event) -> None:
        """Called just after the scene is closed."""
        self.initializeParameterNode()
        if self.parent.isEntered:
            self.panel.enter()

    def onSceneEndImport(self, caller, event) -> None:
        """Called just after a scene, or data, was loaded."""
        self.initializeParameterNode()
        if self.parent.isEntered:
            self.panel.enter()

    def initializeParameterNode(self) -> None:
        """Make sure that the parameter node exists and is bound."""
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, parameterNode) -> None:
        """Bind a parameter node, or none."""
        self.panel.set_parameters(parameterNode)

    def onReload(self) -> None:
        """Called by the Reload button: the library is loaded anew, too."""
        for name in [name for name in sys.modules if name.split(".")[0] == "PromptSegLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


#
# PromptSegLogic
#


class PromptSegLogic(ScriptedLoadableModuleLogic):
    """Gives the parameter node; what can be computed without a window is in ``PromptSegLib``."""

    def getParameterNode(self):
        return PromptSegParameterNode(super().getParameterNode())


#
# PromptSegTest
#


class PromptSegTest(ScriptedLoadableModuleTest):
    """The quick tests, which need nothing installed; ``Testing/Python/PromptSegModuleTest.py`` also tunes."""

    def setUp(self):
        slicer.mrmlScene.Clear()
        slicer.util.selectModule("PromptSeg")
        self.panel = slicer.modules.PromptSegWidget.panel

    def runTest(self):
        for test in (self.test_reasons, self.test_choices):
            self.setUp()
            test()

    def test_reasons(self):
        """What cannot be done says why; a volume comes with a segmentation."""
        import numpy

        self.panel.render()
        self.assertFalse(self.panel.ui.applyButton.enabled)
        self.assertIn("no preview", self.panel.ui.applyButton.toolTip)
        volume = slicer.util.addVolumeFromArray(numpy.zeros((8, 9, 10), numpy.int16))
        self.panel.ui.volumeSelector.setCurrentNode(volume)
        self.assertIsNotNone(self.panel.parameters.segmentation)
        self.assertFalse(self.panel.ui.tuneButton.enabled)

    def test_choices(self):
        """Widgets and parameter node show the same."""
        parameters = PromptSegLogic().getParameterNode()
        self.panel.ui.opacitySlider.value = 0.75
        self.assertEqual(parameters.opacity, 0.75)
        parameters.seconds = 90.0
        self.assertEqual(self.panel.ui.secondsSpinBox.value, 90.0)
