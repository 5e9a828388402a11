"""``parameterNodeWrapper`` on real nodes, bound to widgets of PySide6."""

from __future__ import annotations

import typing
from typing import Any, Callable

import vtk
from PySide6 import QtWidgets

from harness.ctk_widgets import ctkSliderWidget


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
