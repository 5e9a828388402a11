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
import typing
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator, Optional

import slicer
import slicer.util
import vtk
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets
from PySide6.QtCore import Property, Signal

ROOT = Path(__file__).resolve().parents[3]
MODULE_FILE = ROOT / "PromptSeg" / "PromptSeg.py"
EFFECTS = ("Threshold", "Paint", "Draw", "Erase", "Scissors", "Islands", "Smoothing")
OPTIONS, ERASE = (384, 72), 417  # pixels that the options of Paint ask for, and the width of those of Erase
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


# ctk


class ctkCollapsibleButton(QtWidgets.QWidget):
    """A bar with a text, and below it what can be folded away."""

    contentsCollapsed = Signal(bool)
    _BAR = 24

    def __init__(self, parent: Optional[QtWidgets.QWidget] = None):
        super().__init__(parent)
        self._text, self._collapsed, self._flat = "", False, False
        self.setContentsMargins(0, self._BAR, 0, 0)

    def _set_text(self, text: str) -> None:
        self._text = text
        self.update()

    def _set_collapsed(self, collapsed: bool) -> None:
        self._collapsed = collapsed
        self._fold()
        self.contentsCollapsed.emit(collapsed)

    def _set_flat(self, flat: bool) -> None:
        self._flat = flat

    text = Property(str, lambda self: self._text, _set_text)
    collapsed = Property(bool, lambda self: self._collapsed, _set_collapsed)
    flat = Property(bool, lambda self: self._flat, _set_flat)

    def _fold(self) -> None:
        # No override of sizeHint: where Qt's properties are attributes, PySide takes it for one and crashes.
        self.setMinimumHeight(self._BAR + 2 if self._collapsed else 0)
        self.setMaximumHeight(self._BAR + 2 if self._collapsed else 16777215)

    def mousePressEvent(self, event: QtGui.QMouseEvent) -> None:
        if event.position().y() < self._BAR:
            self._set_collapsed(not self._collapsed)

    def paintEvent(self, _event: QtGui.QPaintEvent) -> None:
        painter = QtWidgets.QStylePainter(self)
        bar = QtCore.QRect(0, 1, self.width(), self._BAR - 4)
        if not self._flat:
            option = QtWidgets.QStyleOptionButton()
            option.initFrom(self)
            option.rect = bar
            painter.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option)
        mark = "\u25b8" if self._collapsed else "\u25be"
        painter.drawText(bar.adjusted(8, 0, 0, 0), QtCore.Qt.AlignmentFlag.AlignVCenter, f"{mark}  {self._text}")
        painter.end()


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider with a spin box."""

    valueChanged = Signal(float)
    _STEPS = 1000

    def __init__(self, parent: Optional[QtWidgets.QWidget] = None):
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        self._spin = QtWidgets.QDoubleSpinBox()
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._spin)
        self._spin.valueChanged.connect(self._spun)
        self._slider.setRange(0, self._STEPS)
        self._slider.valueChanged.connect(self._slid)

    def _slid(self, position: int) -> None:
        low, high = self._spin.minimum(), self._spin.maximum()
        self._spin.setValue(low + (high - low) * position / self._STEPS)

    def _spun(self, value: float) -> None:
        low, high = self._spin.minimum(), self._spin.maximum()
        self._slider.blockSignals(True)
        self._slider.setValue(round((value - low) / ((high - low) or 1) * self._STEPS))
        self._slider.blockSignals(False)
        self.valueChanged.emit(value)

    def _forwarded(kind: type, name: str) -> Any:
        getter = lambda self: getattr(self._spin, name)()  # noqa: E731
        setter = lambda self, value: getattr(self._spin, f"set{name[0].upper()}{name[1:]}")(value)  # noqa: E731
        return Property(kind, getter, setter)

    value = _forwarded(float, "value")
    minimum = _forwarded(float, "minimum")
    maximum = _forwarded(float, "maximum")
    singleStep = _forwarded(float, "singleStep")
    decimals = _forwarded(int, "decimals")
    pageStep = Property(float, lambda self: 0.0, lambda self, value: None)


# MRML widgets


class qMRMLWidget(QtWidgets.QWidget):
    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene


class qMRMLNodeComboBox(QtWidgets.QComboBox):
    """The nodes of some classes in the scene, kept up to date."""

    currentNodeChanged = Signal(object)

    def __init__(self, parent: Optional[QtWidgets.QWidget] = None):
        super().__init__(parent)
        self._scene, self._tags = None, []
        self._choices: dict[str, Any] = {"nodeTypes": [], "hideChildNodeTypes": [], "noneEnabled": False}
        self._node_id = ""
        self.currentIndexChanged.connect(self._picked)
        self.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)

    def _choice(kind: Any, name: str) -> Any:
        return Property(
            kind, lambda self: self._choices.get(name), lambda self, value: self._choices.update({name: value})
        )

    nodeTypes = _choice("QStringList", "nodeTypes")
    hideChildNodeTypes = _choice("QStringList", "hideChildNodeTypes")
    noneEnabled = _choice(bool, "noneEnabled")
    addEnabled = _choice(bool, "addEnabled")
    removeEnabled = _choice(bool, "removeEnabled")
    renameEnabled = _choice(bool, "renameEnabled")

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent):
            self._tags.append(scene.AddObserver(event, lambda *_: self._refresh()))
        self._refresh()

    def _nodes(self) -> list[Any]:
        found = []
        for kind in self._choices["nodeTypes"]:
            nodes = [self._scene.GetNthNodeByClass(n, kind) for n in range(self._scene.GetNumberOfNodesByClass(kind))]
            hidden = self._choices["hideChildNodeTypes"]
            found += [each for each in nodes if not each.GetHideFromEditors() and not any(map(each.IsA, hidden))]
        return found

    def _refresh(self) -> None:
        if self._scene.IsBatchProcessing():
            return
        before, nodes = self._node_id, self._nodes()
        quiet = self.blockSignals(True)
        self.clear()
        if self._choices["noneEnabled"]:
            self.addItem("None", "")
        for node in nodes:
            self.addItem(node.GetName() or "", node.GetID())
        index = self.findData(before) if before else (0 if self._choices["noneEnabled"] else -1)
        self.setCurrentIndex(index if index >= 0 else 0)
        self.blockSignals(quiet)
        self._picked()

    def _picked(self, *_args: Any) -> None:
        node_id = self.currentData() or ""
        if node_id != self._node_id:
            self._node_id = node_id
            self.currentNodeChanged.emit(self.currentNode())

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self._node_id) if self._scene is not None and self._node_id else None

    def setCurrentNode(self, node: Any) -> None:
        index = self.findData(node.GetID() if node is not None else "")
        self.setCurrentIndex(index)
        self._picked()


class qMRMLSegmentEditorWidget(qMRMLWidget):
    """Where strokes would be painted; undo and redo are real."""

    def __init__(self, parent: Optional[QtWidgets.QWidget] = None):
        super().__init__(parent)
        self._editor_node = self._segmentation = self._volume = self._history = None
        self.entered = self.with_shortcuts = False
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._current, self._effect = "", None
        self._shortcuts: list[QtGui.QShortcut] = []
        above = QtWidgets.QHBoxLayout()
        for name in ("AddSegmentButton", "RemoveSegmentButton", "Show3DButton"):
            button = QtWidgets.QPushButton(name.removesuffix("Button"))
            button.setObjectName(name)
            above.addWidget(button)
        layout.addLayout(above)
        beside = QtWidgets.QHBoxLayout()
        beside.setObjectName("horizontalLayout")
        layout.addLayout(beside)
        left, right = QtWidgets.QVBoxLayout(), QtWidgets.QVBoxLayout()
        beside.addLayout(left)
        beside.addLayout(right)
        for column, named in ((left, "verticalLayout_3"), (right, "verticalLayout")):
            column.setObjectName(named)
        self._grid, self._buttons_of = QtWidgets.QGridLayout(), []
        for name in ("None", *EFFECTS):
            button = QtWidgets.QToolButton()
            button.setObjectName(name)
            button.setText(name)
            button.clicked.connect(partial(self._toggle_effect, name))
            self._buttons_of.append(button)
        left.addLayout(self._grid)
        self._columns = 2
        self._lay_out()
        group = QtWidgets.QFrame()
        group.setObjectName("UndoRedoGroupBox")
        row = QtWidgets.QHBoxLayout(group)
        self._undo, self._redo = QtWidgets.QToolButton(), QtWidgets.QToolButton()
        for button, name in ((self._undo, "Undo"), (self._redo, "Redo")):
            button.setObjectName(f"{name}Button")
            button.setText(name)
            row.addWidget(button)
        left.addWidget(group)
        table = QtWidgets.QTableWidget()
        table.setObjectName("SegmentsTableView")
        table.setMinimumHeight(100)
        around = QtWidgets.QFrame()
        around.setObjectName("SegmentsTableResizableFrame")
        around.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Expanding)
        QtWidgets.QVBoxLayout(around).addWidget(table)
        right.addWidget(around)
        self._options = QtWidgets.QGroupBox("Options")
        self._options.setObjectName("OptionsGroupBox")
        inside = QtWidgets.QVBoxLayout(self._options)
        inside.setContentsMargins(8, 4, 8, 4)  # with what is around the group in the application
        self._frames = {}
        for name in EFFECTS:
            self._frames[name] = QtWidgets.QFrame()
            part = QtWidgets.QWidget()
            part.setFixedSize(ERASE if name == "Erase" else OPTIONS[0], OPTIONS[1])
            around_it = QtWidgets.QVBoxLayout(self._frames[name])
            around_it.setContentsMargins(0, 0, 0, 0)
            around_it.addWidget(part)
            inside.addWidget(self._frames[name])
            self._frames[name].hide()
        self._options.hide()
        right.addWidget(self._options)
        for column in (left, right):
            column.addItem(QtWidgets.QSpacerItem(20, 40))
        self._undo.clicked.connect(self.undo)
        self._redo.clicked.connect(self.redo)
        self._buttons()

    unorderedEffectsVisible = True

    def setEffectNameOrder(self, names: Any) -> None:
        self.effectNameOrder = tuple(names)

    def currentSegmentID(self) -> str:
        known = self._segmentation.GetSegmentation().GetSegmentIDs() if self._segmentation is not None else ()
        if self._current not in known:
            self._current = known[0] if known else ""
        return self._current

    def setCurrentSegmentID(self, segment_id: str) -> None:
        self._current = segment_id

    def activeEffect(self) -> Any:
        return self._effect

    def effectByName(self, name: str) -> Any:
        return SimpleNamespace(optionsFrame=lambda: self._frames[name]) if name in self._frames else None

    def _lay_out(self) -> None:
        for number, button in enumerate(self._buttons_of):
            button.setText(button.objectName()[: 2 if self._columns > 2 else None])
            self._grid.addWidget(button, number // self._columns, number % self._columns)

    def _set_columns(self, count: int) -> None:
        self._columns = count
        self._lay_out()

    effectColumnCount = Property(int, lambda self: self._columns, _set_columns)

    def _toggle_effect(self, name: str, *_args: Any) -> None:
        self.setActiveEffect(None if self._effect == name else name)

    def setActiveEffectByName(self, name: str) -> None:
        self.setActiveEffect(name)

    def mrmlSegmentEditorNode(self) -> Any:
        return self._editor_node

    def setMRMLSegmentEditorNode(self, node: Any) -> None:
        self._editor_node = node

    def segmentationNode(self) -> Any:
        return self._segmentation

    def segmentationNodeID(self) -> str:
        return self._segmentation.GetID() or "" if self._segmentation is not None else ""

    def sourceVolumeNode(self) -> Any:
        return self._volume

    def setSegmentationNode(self, node: Any) -> None:
        if self._segmentation is not None:
            self._segmentation.RemoveObserver(self._tag)
        self._segmentation, self._history = node, None
        if node is not None:
            self._tag = node.AddObserver(vtk.vtkCommand.AnyEvent, lambda *_: self._buttons())
            self._history = slicer.vtkSegmentationHistory()
            self._history.SetMaximumNumberOfStates(10)
            self._history.SetSegmentation(node.GetSegmentation())
        self._buttons()

    def setSourceVolumeNode(self, node: Any) -> None:
        self._volume = node

    def saveStateForUndo(self) -> None:
        self._history.SaveState()
        self._buttons()

    def undo(self) -> None:
        self._history.RestorePreviousState()
        self._buttons()

    def redo(self) -> None:
        self._history.RestoreNextState()
        self._buttons()

    def _buttons(self) -> None:
        history = self._history
        self._undo.setEnabled(history is not None and bool(history.IsRestorePreviousStateAvailable()))
        self._redo.setEnabled(history is not None and bool(history.IsRestoreNextStateAvailable()))

    def installKeyboardShortcuts(self) -> None:
        """As the editor's own: in the main window, and without asking whether there is anything to undo."""
        self.uninstallKeyboardShortcuts()
        self.with_shortcuts = True
        for keys, slot in ((QtGui.QKeySequence.Undo, self.undo), (QtGui.QKeySequence.Redo, self.redo)):
            shortcut = QtGui.QShortcut(QtGui.QKeySequence(keys), slicer.util.mainWindow())
            shortcut.activated.connect(slot)
            self._shortcuts.append(shortcut)

    def uninstallKeyboardShortcuts(self) -> None:
        self.with_shortcuts = False
        while self._shortcuts:
            shortcut = self._shortcuts.pop()
            shortcut.setParent(None)
            shortcut.deleteLater()

    def setupViewObservations(self) -> None:
        self.entered = True

    def removeViewObservations(self) -> None:
        self.entered = False

    def setActiveEffect(self, effect: Any) -> None:
        self._effect = effect
        for name, frame in self._frames.items():
            frame.setVisible(name == effect)
        self._options.setVisible(effect is not None)

    def updateWidgetFromMRML(self) -> None:
        pass


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


# Parameter nodes


class WithinRange:
    def __init__(self, minimum: float, maximum: float):
        self.minimum, self.maximum = minimum, maximum


# Property and signal of the widgets that may be bound to a field.
BOUND = {
    QtWidgets.QCheckBox: ("checked", "toggled", bool),
    QtWidgets.QLineEdit: ("text", "textChanged", str),
    QtWidgets.QSpinBox: ("value", "valueChanged", int),
    QtWidgets.QDoubleSpinBox: ("value", "valueChanged", float),
    ctkSliderWidget: ("value", "valueChanged", float),
}


def parameter_node_wrapper(wrapped: type) -> type:
    """Fields kept in a ``vtkMRMLScriptedModuleNode``, typed, with defaults and bound to widgets."""
    hints = typing.get_type_hints(wrapped, include_extras=True)

    class Wrapper:
        def __init__(self, node: Any):
            object.__setattr__(self, "parameterNode", node)
            object.__setattr__(self, "_bindings", [])

        def __getattr__(self, name: str) -> Any:
            if name not in hints:
                raise AttributeError(name)
            kind, node = base_of(hints[name]), self.parameterNode
            if kind is list:
                count = node.GetNumberOfNodeReferences(name)
                return [node.GetNthNodeReference(name, n) for n in range(count)]
            if kind not in (str, float, int, bool):
                return node.GetNodeReference(name)
            text = node.GetParameter(name)
            if not node.HasParameter(name):
                return getattr(wrapped, name)
            return text == "True" if kind is bool else kind(text)

        def __setattr__(self, name: str, value: Any) -> None:
            kind, node = base_of(hints[name]), self.parameterNode
            modifying = node.StartModify()
            if kind is list:
                node.RemoveNodeReferenceIDs(name)
                for each in value:
                    node.AddNodeReferenceID(name, each.GetID())
                node.Modified()
            elif kind not in (str, float, int, bool):
                node.SetNodeReferenceID(name, value.GetID() if value is not None else None)
                node.Modified()
            else:
                node.SetParameter(name, str(kind(value)))
            node.EndModify(modifying)

        def AddObserver(self, event: int, callback: Callable) -> int:
            return self.parameterNode.AddObserver(event, callback)

        def RemoveObserver(self, tag: int) -> None:
            self.parameterNode.RemoveObserver(tag)

        def connectGui(self, ui: Any) -> int:
            for widget in list(vars(ui).values()):
                name = widget.property("SlicerParameterName")
                if name:
                    self._bindings.append(self._bind(widget, name))
            tag = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: [show() for _s, _f, show in self._bindings])
            return tag

        def _bind(self, widget: Any, name: str) -> tuple:
            prop, signal, kind = BOUND[type(widget)]
            if base_of(hints[name]) is not kind:
                raise RuntimeError(f"{type(widget).__name__} cannot show {name}")
            for each in typing.get_args(hints[name])[1:]:
                widget.setProperty("minimum", each.minimum)
                widget.setProperty("maximum", each.maximum)

            def show() -> None:
                if widget.property(prop) != getattr(self, name):
                    widget.setProperty(prop, getattr(self, name))

            def take(*_args: Any) -> None:
                setattr(self, name, widget.property(prop))

            show()
            getattr(widget, signal).connect(take)
            return getattr(widget, signal), take, show

        def disconnectGui(self, tag: int) -> None:
            self.RemoveObserver(tag)
            while self._bindings:
                signal, take, _show = self._bindings.pop()
                signal.disconnect(take)

    Wrapper.__name__ = wrapped.__name__
    Wrapper.fields = hints
    Wrapper.described = wrapped
    return Wrapper


def base_of(hint: Any) -> Any:
    hint = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
    return typing.get_origin(hint) or hint


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
