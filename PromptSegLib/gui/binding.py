"""The parameter node: bound to the widgets that show its values, and watched."""

from __future__ import annotations

from typing import Any, Callable

from ..session.choices import Choices
from ..session.chosen import Chosen
from . import watching


class Binding:
    """At most one parameter node at a time, and who hears of its changes.

    :param ui: the widgets; the dynamic property ``SlicerParameterName`` names the value that one shows.
    :param chosen: gets the values from whichever node is bound.
    :param on_changed: gets the names of the values that changed.
    """

    def __init__(self, ui: Any, chosen: Chosen, on_changed: Callable[[set[str]], None]):
        self._ui, self._chosen, self._on_changed = ui, chosen, on_changed
        self._watch = watching.Watch()
        self._choices = Choices(chosen)
        self._tag: Any = None
        self.node: Any = None

    def bind(self, node: Any) -> None:
        """Bind another ``parameterNodeWrapper``, or none for None."""
        if self.node is not None:
            self.node.disconnectGui(self._tag)
        self._watch.off()
        self.node = node
        self._chosen.use(node)
        self._choices = Choices(self._chosen)
        if node is not None:
            self._tag = node.connectGui(self._ui)
            self._watch.on(node, *watching.modified(self._changed))

    def _changed(self, *_args: Any) -> None:
        self._on_changed(self._choices.changed(self._chosen))
