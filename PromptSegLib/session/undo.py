"""Undo and redo of segmentations, and what follows them: prompts, and what is remembered of results."""

from __future__ import annotations

from typing import Any, Callable

from ..scene.history import OneOrder
from . import prompts
from .actions import Actions, Notice
from .applied import AppliedResults, current_tag
from .inputs import Inputs


class UndoHistory:
    """One order over the Segment Editor's states and those of changes made while it showed another segmentation.

    :param make: the editor's history of a segmentation node, see :class:`~PromptSegLib.scene.history.OneOrder`.
    :param on_turned: hears of a segmentation when another result is in force there.
    :param on_changed: hears of a segmentation whenever it has changed.
    """

    def __init__(
        self,
        scene: Any,
        inputs: Inputs,
        actions: Actions,
        applied: AppliedResults,
        make: Callable[[Any], Any],
        on_turned: Callable[[Any], None],
        on_changed: Callable[[Any], None],
    ):
        self._scene, self._inputs, self._actions, self._applied = scene, inputs, actions, applied
        self._make, self._on_turned, self._on_changed = make, on_turned, on_changed
        self._orders: dict[str, OneOrder] = {}  # by the ID of the segmentation
        self._followed = ""  # tag of the result that is known to be in force

    def of(self, segmentation: Any) -> OneOrder:
        """The order of a segmentation node's states."""
        key = segmentation.GetID()
        if key not in self._orders:
            self._orders[key] = OneOrder(segmentation, self._make(segmentation))
        return self._orders[key]

    def undo(self) -> None:
        """Take back the last change of the segmentation: a result, or a stroke."""
        self._go("undo")

    def redo(self) -> None:
        """Bring back what was undone."""
        self._go("redo")

    def segmentation_changed(self) -> None:
        """Somebody else changed the segmentation, perhaps undid a result with the editor's own button: follow."""
        segmentation = self._inputs.segmentation
        if segmentation is not None:
            self._on_changed(segmentation)
        if segmentation is not None and current_tag(segmentation) != self._followed:
            with self._actions.doing(quiet=True):
                self._actions.notice = Notice()  # what it says of the result is no longer true
                self._bring_along()

    def follow(self) -> None:
        """What is applied to the segmentation now is known."""
        segmentation = self._inputs.segmentation
        self._followed = current_tag(segmentation) if segmentation is not None else ""

    def leave(self) -> None:
        """The editor is about to show another segmentation."""
        if self._inputs.segmentation is not None:
            self.of(self._inputs.segmentation).leave()

    def removed(self, node: Any) -> None:
        self._orders.pop(node.GetID() or "", None)

    def closing(self) -> None:
        self._orders.clear()

    def _go(self, action: str) -> None:
        with self._actions.doing():
            self._actions.require(action)
            getattr(self.of(self._inputs.segmentation), action)()
            self._actions.notice = Notice()
            self._bring_along()

    def _bring_along(self) -> None:
        """What was undone or redone is a change of segments: bring prompts and memory to the same state."""
        segmentation = self._inputs.segmentation
        result = self._applied.of(segmentation)
        if result is not None and result.prompts is not None:
            now = prompts.current(segmentation)
            if now is None or now.to_bytes(whole=True) != result.prompts.to_bytes(whole=True):
                prompts.keep(self._scene, segmentation, result.prompts)
        self._applied.write(segmentation)
        self.follow()
        self._on_turned(segmentation)
