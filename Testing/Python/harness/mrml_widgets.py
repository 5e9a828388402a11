"""Slicer's widgets on a scene: a list of its nodes, and the Segment Editor as far as the panel asks for it."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any, Optional

import slicer
import slicer.util
import vtk
from PySide6 import QtGui, QtWidgets
from PySide6.QtCore import Property, Signal

EFFECTS = ("Threshold", "Paint", "Draw", "Erase", "Scissors", "Islands", "Smoothing")
OPTIONS, ERASE = (384, 72), 417  # pixels that the options of Paint ask for, and the width of those of Erase


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
