"""Undo and redo of a segmentation, where no Segment Editor widget keeps its own."""

from __future__ import annotations

import slicer


class History:
    """Earlier states of all segments of a node: voxels, names, colours and tags.

    :param states: how many are kept; the oldest go first.
    """

    def __init__(self, segmentation_node, states: int = 10):
        self._history = slicer.vtkSegmentationHistory()
        self._history.SetMaximumNumberOfStates(states)
        self._history.SetSegmentation(segmentation_node.GetSegmentation())

    def save(self) -> None:
        """Keep the state as it is now: call this before a change. What could be redone is gone then."""
        self._history.SaveState()

    def undo(self) -> bool:
        """Go back by one state; whether there was one."""
        return bool(self.can_undo and self._history.RestorePreviousState())

    def redo(self) -> bool:
        """Take back an undo; whether there was one."""
        return bool(self.can_redo and self._history.RestoreNextState())

    @property
    def can_undo(self) -> bool:
        return bool(self._history.IsRestorePreviousStateAvailable())

    @property
    def can_redo(self) -> bool:
        return bool(self._history.IsRestoreNextStateAvailable())
