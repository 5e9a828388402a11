"""Stand-ins on PySide6 for the few names of ``qt``, ``ctk`` and ``slicer`` that only the application has.

Just enough to build and click the panel: the scene, its nodes and their events are real, and so is Qt. Inside of
:func:`application`, code of the panel is given PythonQt's way with properties: ``label.text``, not ``label.text()``.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import tempfile
import types
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator

import slicer
import slicer.util
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

from harness.ctk_widgets import ctkCollapsibleButton, ctkSliderWidget
from harness.mrml_widgets import qMRMLNodeComboBox, qMRMLSegmentEditorWidget, qMRMLWidget
from harness.parameter_nodes import WithinRange, parameter_node_wrapper

ROOT = Path(__file__).resolve().parents[3]
MODULE_FILE = ROOT / "PromptSeg" / "PromptSeg.py"
TRANSLATED: set[str] = set()  # every text that went through tr()


# qt


class FileDialog:
    """As PythonQt's: the answers are plain texts. A test puts them into ``answers``."""

    answers: list[str] = []

    @classmethod
    def _answer(cls, *_args: Any) -> str:
        return cls.answers.pop(0)

    getOpenFileName = getSaveFileName = getExistingDirectory = _answer


def qt_module() -> types.ModuleType:
    module = types.ModuleType("qt")
    for part in (QtCore, QtGui, QtWidgets):
        for name in dir(part):
            if name.startswith("Q"):
                setattr(module, name, getattr(part, name))
    module.Qt = QtCore.Qt
    module.QFileDialog = FileDialog
    return module


# Widgets from a file


CUSTOM = {
    each.__name__: each
    for each in (ctkCollapsibleButton, ctkSliderWidget, qMRMLWidget, qMRMLNodeComboBox, qMRMLSegmentEditorWidget)
}


class Loader(QtUiTools.QUiLoader):
    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> QtWidgets.QWidget:
        if class_name in CUSTOM:
            widget = CUSTOM[class_name](parent)
            widget.setObjectName(name)
            return widget
        return super().createWidget(class_name, parent, name)


def load_ui(path: Any) -> QtWidgets.QWidget:
    loader = Loader()
    widget = loader.load(str(path))
    if widget is None:
        raise RuntimeError(loader.errorString())
    return widget


def child_widget_variables(widget: QtWidgets.QWidget) -> SimpleNamespace:
    children = widget.findChildren(QtWidgets.QWidget)
    return SimpleNamespace(**{each.objectName(): each for each in children if each.objectName()})


# The module's base classes


class ScriptedLoadableModule:
    def __init__(self, parent: Any):
        self.parent = parent

    def resourcePath(self, name: str) -> str:
        return str(Path(self.parent.path).parent / "Resources" / name)


class ScriptedLoadableModuleWidget:
    def __init__(self, parent: Any = None):
        self.parent, self.reloaded = parent, 0
        self.layout = parent.layout()

    def setup(self) -> None:
        pass

    def resourcePath(self, name: str) -> str:
        return str(MODULE_FILE.parent / "Resources" / name)

    def onReload(self) -> None:
        self.reloaded += 1


class ScriptedLoadableModuleLogic:
    def getParameterNode(self) -> Any:
        name = type(self).__name__[: -len("Logic")]
        node = slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(name)
            node.SetName(name)
            node = slicer.mrmlScene.AddNode(node)
        return node


class ScriptedLoadableModuleTest:
    pass


# The application


def as_in_pythonqt(module: types.ModuleType) -> None:
    """Make Qt's properties attributes in the code of a module."""
    # PySide looks at the source of all modules at the first time, which some of torch's do not survive.
    aside = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in ("torch", "monai")}
    try:
        exec("from PySide6 import QtCore\nfrom __feature__ import true_property", module.__dict__)
    finally:
        sys.modules.update(aside)


class PythonQtProperties(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the panel's files so that Qt's properties are attributes in them, as in PythonQt."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if not name.startswith("PromptSegLib.gui.") and name != "PromptSeg":
            return None
        places = path if path is not None else [str(MODULE_FILE.parent)]
        spec = importlib.machinery.PathFinder.find_spec(name, places)
        if spec is not None:
            spec.loader, self._loader = self, spec.loader
        return spec

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        as_in_pythonqt(module)
        loader = importlib.machinery.SourceFileLoader(module.__name__, module.__spec__.origin)
        module.__file__ = module.__spec__.origin
        loader.exec_module(module)


def tr(text: str) -> str:
    TRANSLATED.add(text)
    return text


class Application:
    """What a test holds of the application."""

    def __init__(self, scene: Any, window: QtWidgets.QMainWindow):
        self.scene, self.window = scene, window
        self.started: list[Callable] = []
        self.widgets: list[Any] = []

    def open_module(self) -> Any:
        """The module's widget, entered."""
        module = importlib.import_module("PromptSeg")
        parent = QtWidgets.QWidget()
        QtWidgets.QVBoxLayout(parent).setContentsMargins(4, 0, 4, 0)
        area = QtWidgets.QScrollArea()
        area.setWidgetResizable(True)
        area.setWidget(parent)
        self.window.setCentralWidget(area)
        parent.isEntered = True
        widget = module.PromptSegWidget(parent)
        widget.setup()
        widget.enter()
        self.widgets.append(widget)
        return widget


def let_bundles_be_read(scene: Any, folder: str) -> None:
    """Give a scene the folder that bundles are unpacked into and a node class, as the application does for its own."""
    scene.RegisterNodeClass(slicer.vtkMRMLSegmentEditorNode())
    cache, manager = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
    cache.SetRemoteCacheDirectory(folder)
    manager.SetCacheManager(cache)
    scene.SetDataIOManager(manager)


@contextmanager
def application(scene: Any) -> Iterator[Application]:
    """The names of the application while the block runs, on a real scene."""
    cache_folder = tempfile.TemporaryDirectory(prefix="promptseg-test-")
    let_bundles_be_read(scene, cache_folder.name)
    qapplication = QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
    window = QtWidgets.QMainWindow()
    app = Application(scene, window)
    modules = {
        "qt": qt_module(),
        "ctk": SimpleNamespace(ctkCollapsibleButton=ctkCollapsibleButton, ctkSliderWidget=ctkSliderWidget),
        "slicer.i18n": SimpleNamespace(tr=tr, translate=lambda context, text: tr(text)),
        "slicer.parameterNodeWrapper": SimpleNamespace(
            parameterNodeWrapper=parameter_node_wrapper, WithinRange=WithinRange
        ),
        "slicer.ScriptedLoadableModule": SimpleNamespace(
            ScriptedLoadableModule=ScriptedLoadableModule,
            ScriptedLoadableModuleWidget=ScriptedLoadableModuleWidget,
            ScriptedLoadableModuleLogic=ScriptedLoadableModuleLogic,
            ScriptedLoadableModuleTest=ScriptedLoadableModuleTest,
        ),
    }
    connect = lambda signal, slot: app.started.append(slot)  # noqa: E731
    attributes = {
        (slicer, "mrmlScene"): scene,
        (slicer, "app"): SimpleNamespace(connect=connect, testingEnabled=lambda: True),
        (slicer.util, "loadUI"): load_ui,
        (slicer.util, "childWidgetVariables"): child_widget_variables,
        (slicer.util, "mainWindow"): lambda: window,
    }
    finder, missing = PythonQtProperties(), object()
    dropped = {name: sys.modules.pop(name) for name in _panel_modules()}
    before = {name: sys.modules.get(name) for name in modules}
    kept = {place: place[0].__dict__.get(place[1], missing) for place in attributes}
    sys.modules.update(modules)
    for (thing, name), value in attributes.items():
        setattr(thing, name, value)
    sys.meta_path.insert(0, finder)
    try:
        yield app
    finally:
        for widget in app.widgets:
            widget.cleanup()
        sys.meta_path.remove(finder)
        for name in _panel_modules():
            del sys.modules[name]
        sys.modules.update(dropped)
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
        for (thing, name), value in kept.items():
            if value is missing:
                delattr(thing, name)
            else:
                setattr(thing, name, value)
        scene.SetDataIOManager(None)
        cache_folder.cleanup()
        window.close()
        window.deleteLater()
        qapplication.processEvents()


def _panel_modules() -> list[str]:
    return [name for name in sys.modules if name == "PromptSeg" or name.startswith("PromptSegLib.gui")]
