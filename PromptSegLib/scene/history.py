"""Undo and redo of a segmentation, in one order, whoever keeps its states."""

from __future__ import annotations

import zlib
from typing import Any, Callable

import slicer

from . import segment_tags
from .labelmaps import BINARY, is_blank, matrix_of, voxels_of

_TAGS = ("Applied", "Role", "Class", "Number")  # that follow undo and redo


class History:
    """Earlier states of all segments of a node: voxels, names, colors and tags.

    :param states: how many are kept; the oldest go first.
    """

    shown = True

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

    def forget(self) -> None:
        """Let all states go."""
        self._history.RemoveAllStates()

    @property
    def can_undo(self) -> bool:
        return bool(self._history.IsRestorePreviousStateAvailable())

    @property
    def can_redo(self) -> bool:
        return bool(self._history.IsRestoreNextStateAvailable())


class OneOrder:
    """Undo and redo over what the Segment Editor keeps and over changes made while it shows another segmentation.

    An editor keeps the states of the segmentation that it shows, and forgets them when it shows another. So what it
    keeps is always newer than what was kept here before. Each of the two histories hears what the other restores, and
    takes it for a change by the user: before going back beyond the editor's states, they are taken over.

    :param newer: the editor's history: ``save``, ``undo``, ``redo``, ``can_undo``, ``can_redo``; ``shown``, whether it
        is this segmentation's; ``forget``, which lets its states go.
    """

    def __init__(self, segmentation_node, newer: Any):
        self._node, self._newer, self._older = segmentation_node, newer, History(segmentation_node)

    def save(self) -> None:
        """Keep the state as it is now: call this before a change. What could be redone is gone then."""
        (self._newer if self._newer.shown else self._older).save()

    def undo(self) -> bool:
        """Go back by one state; whether there was one."""
        if self._newer.shown and self._newer.can_undo:
            return self._newer.undo()
        if self._older.can_undo and self._newer.shown:
            self._take_over()
        return self._step(self._older.undo)

    def redo(self) -> bool:
        """Take back an undo; whether there was one."""
        if self._newer.shown and self._newer.can_redo:
            return self._newer.redo()
        return self._step(self._older.redo)

    def leave(self) -> None:
        """The editor is about to show another segmentation: keep its states where they have older ones before them."""
        if self._newer.shown and (self._older.can_undo or self._older.can_redo):
            self._take_over()

    @property
    def can_undo(self) -> bool:
        return bool((self._newer.shown and self._newer.can_undo) or self._older.can_undo)

    @property
    def can_redo(self) -> bool:
        return bool((self._newer.shown and self._newer.can_redo) or self._older.can_redo)

    def _take_over(self) -> None:
        """Append the editor's states to the older ones; the segmentation ends as it was."""
        before = after = 0
        while self._newer.can_undo and self._newer.undo():
            before += 1
        if before or self._newer.can_redo:
            self._older.save()
        while self._newer.can_redo and self._newer.redo():
            self._older.save()
            after += 1
        self._newer.forget()
        for _ in range(after - before):
            self._older.undo()

    def _step(self, step: Callable[[], bool]) -> bool:
        """Go to the next state of the older ones that differs from what is there."""
        now = _digest(self._node)
        while step():
            if _digest(self._node) != now:
                return True
        return False


def _digest(segmentation_node) -> int:
    """A number that differs, most likely, when anything of the segments differs that a history keeps."""
    segmentation = segmentation_node.GetSegmentation()
    digest = 0
    layers = {}
    for segment_id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segment_id)
        notes = [segment_tags.tag(segmentation_node, segment_id, key) for key in _TAGS]
        words = (segment_id, segment.GetName(), segment.GetColor(), segment.GetLabelValue(), notes)
        digest = zlib.crc32(repr(words).encode(), digest)
        labelmap = segment.GetRepresentation(BINARY)
        if not is_blank(labelmap):
            layers[labelmap.GetAddressAsString("")] = labelmap
    for labelmap in layers.values():
        place = (labelmap.GetExtent(), matrix_of(labelmap).tolist())
        digest = zlib.crc32(voxels_of(labelmap).data, zlib.crc32(repr(place).encode(), digest))
    return digest
