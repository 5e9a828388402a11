"""Hearing what happens to a segmentation and to the list of nodes."""

from __future__ import annotations

from typing import Any, Callable

import slicer
import vtk

_SEGMENTS = ("SegmentAdded", "SegmentRemoved", "SegmentModified", "SegmentsOrderModified")
# What is painted changed, and what is grown from it: also where a segment went with its voxels.
_VOXELS = ("SourceRepresentationModified", "MasterRepresentationModified", "SegmentRemoved")  # 2nd: before Slicer 5.3


class Watch:
    """Calls back on events of one object at a time."""

    def __init__(self) -> None:
        self._object: Any = None
        self._tags: list[int] = []

    def on(self, thing: Any, *events: tuple[int, Callable[..., None]]) -> bool:
        """Watch another object, or none for None; whether that is a change."""
        if thing is self._object:
            return False
        self.off()
        self._object = thing
        if thing is not None:
            self._tags = [thing.AddObserver(event, callback) for event, callback in events]
        return True

    def off(self) -> None:
        while self._tags:
            self._object.RemoveObserver(self._tags.pop())
        self._object = None


def segmentation_events(on_segments: Callable[..., None], on_voxels: Callable[..., None]) -> list:
    """Events of a segmentation node for :meth:`Watch.on`: what a list shows changed; strokes came or went."""
    known = slicer.vtkSegmentation
    named = [(name, on_segments) for name in _SEGMENTS] + [(name, on_voxels) for name in _VOXELS]
    return [(getattr(known, name), slot) for name, slot in named if hasattr(known, name)]


def scene_events(on_nodes: Callable[..., None]) -> list:
    """Events of a scene for :meth:`Watch.on`: nodes came or went."""
    scene = slicer.vtkMRMLScene
    events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndImportEvent, scene.EndBatchProcessEvent)
    return [(event, on_nodes) for event in events]


def volume_events(on_voxels: Callable[..., None]) -> list:
    """The event of a volume node for :meth:`Watch.on`: other voxels, as when a sequence goes to its next frame."""
    return [(slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent, on_voxels)]


def modified(on_modified: Callable[..., None]) -> list:
    """The event of a parameter node for :meth:`Watch.on`."""
    return [(vtk.vtkCommand.ModifiedEvent, on_modified)]
