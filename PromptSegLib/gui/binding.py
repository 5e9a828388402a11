"""The parameter node: bound to the widgets that show its values, and watched."""

from __future__ import annotations

from typing import Any, Callable

from . import watching
from .choices import ParameterChanges, ParameterProxy


class Binding:
    """At most one parameter node at a time, and who hears of its changes.

    :param ui: the widgets; the dynamic property ``SlicerParameterName`` names the value that one shows.
    :param parameters: gets the values from whichever node is bound.
    :param on_changed: gets the names of the values that changed.
    """

    def __init__(self, ui: Any, parameters: ParameterProxy, on_changed: Callable[[set[str]], None]):
        self._ui, self._parameters, self._on_changed = ui, parameters, on_changed
        self._watch = watching.Watch()
        self._changes = ParameterChanges(parameters)
        self._tag: Any = None
        self.node: Any = None

    def bind(self, node: Any) -> None:
        """Bind another ``parameterNodeWrapper``, or none for None."""
        if self.node is not None:
            self.node.disconnectGui(self._tag)
        self._watch.off()
        self.node = node
        self._parameters.use(node)
        self._changes = ParameterChanges(self._parameters)
        if node is not None:
            self._tag = node.connectGui(self._ui)
            self._watch.on(node, *watching.modified(self._changed))

    def _changed(self, *_args: Any) -> None:
        self._on_changed(self._changes.changed(self._parameters))
