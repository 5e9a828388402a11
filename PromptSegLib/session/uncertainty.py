"""Where to look next: the places where the network was unsure, and the map of it; both are saved with the scene."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import SimpleITK as sitk

from ..errors import PromptSegError
from ..scene import slice_views
from ..scene.segmentations import segments
from .actions import Actions


class UncertaintyNavigator:
    """Of the last result of a volume: the places where the network is unsure, and the map of it."""

    def __init__(self, scene: Any, actions: Actions):
        self._scene, self._actions = scene, actions
        self._volume: Any = None
        self._points = np.zeros((0, 3))  # voxel indices: they stay true when the volume is moved
        self._classes: tuple[str, ...] = ()  # that they are about
        self._segments: tuple[str, ...] = ()  # the IDs of their segments
        self._at = -1
        self._replaced: dict[str, dict[str, Optional[str]]] = {}  # by the ID of the volume, until there is an Apply
        self.shown = False

    def remember(
        self,
        volume: Any,
        points: tuple[tuple[float, float, float], ...],
        uncertainty: sitk.Image,
        classes: tuple[str, ...] = (),
        segment_ids: tuple[str, ...] = (),
    ) -> None:
        """Take what came with a result; a map that is shown follows it.

        :param classes: what each place is about; ``segment_ids``: of their segments, which may be renamed.
        """
        self._volume, self._points = volume, slice_views.in_volume(volume, points)
        self._at, self._classes, self._segments = -1, classes, segment_ids
        self._replaced.setdefault(volume.GetID(), slice_views.kept(volume))
        slice_views.keep_places(volume, self._points, uncertainty, classes, segment_ids)
        if self.shown:
            slice_views.show_map(self._scene, volume, uncertainty)

    def settle(self, volume: Any) -> None:
        """The result of a volume was applied."""
        self._replaced.pop(volume.GetID() or "", None)

    def take_back(self, volume: Any) -> None:
        """The result of a volume was discarded: what came with the one before is kept again, and shown."""
        before = self._replaced.pop(volume.GetID(), None) if volume is not None else None
        if before is None:
            return
        slice_views.put_back(volume, before)
        shown = self.shown
        self.forget(volume)
        if shown and self.has_map(volume):
            self.show(True)

    def removed(self, node: Any) -> None:
        self._replaced.pop(node.GetID() or "", None)
        self.forget(node)

    def forget(self, volume: Any = None) -> None:
        """Forget what is known of a volume, or of any."""
        if volume is None or volume is self._volume:
            if self.shown and volume is not None:
                self.show(False)
            self._volume, self._points, self._at = None, np.zeros((0, 3)), -1
            self._classes = self._segments = ()

    def any(self, volume: Any) -> bool:
        """Whether there is a place to look at."""
        return self._turn_to(volume) and len(self._points) > 0

    def has_map(self, volume: Any) -> bool:
        return self._turn_to(volume) and slice_views.keeps_map(volume)

    def _turn_to(self, volume: Any) -> bool:
        """Whether a volume is there; take what is kept with it, where it is another one."""
        if volume is None:
            return False
        if volume is not self._volume and not self.shown:
            self._volume, self._points = volume, slice_views.kept_places(volume)
            self._at, self._classes = -1, slice_views.kept_classes(volume)
            self._segments = slice_views.kept_segments(volume)
        return volume is self._volume

    def text(self, volume: Any, segmentation: Any = None) -> str:
        """Which place is shown, for the panel; how many there are, before the first is.

        :param segmentation: whose segments the places are about.
        """
        if not self.any(volume):
            return ""
        count = len(self._points)
        if self._at < 0:
            return f"{count} place{'s' if count > 1 else ''}"
        if len(self._classes) != count:  # of an earlier version
            return f"Place {self._at + 1} of {count}"
        name = self._classes[self._at]
        if segmentation is not None and len(self._segments) == count:
            now = {each.id: each.name for each in segments(segmentation)}
            name = now.get(self._segments[self._at], name)
        return f"Place {self._at + 1} of {count}: {name}"

    def look_next(self) -> None:
        """Move the slice views to the next place where the network is unsure."""
        with self._actions.doing():
            self._actions.require("look")
            self._go(1)

    def look_back(self) -> None:
        """Move the slice views to the place before."""
        with self._actions.doing():
            self._actions.require("look")
            self._go(-1)

    def show_map(self, shown: bool) -> None:
        """Show or hide the uncertainty over the volume."""
        with self._actions.doing():
            if shown:
                self._actions.require("map")
            self.show(shown)

    def closing(self) -> None:
        self.forget()
        self._replaced.clear()
        self.shown = False

    def _go(self, step: int) -> None:
        self._at = (max(self._at, 0 if step < 0 else -1) + step) % len(self._points)
        slice_views.point_out(self._scene, slice_views.in_world(self._volume, self._points[self._at])[0].tolist())

    def show(self, shown: bool) -> None:
        """As :meth:`show_map`; raises :class:`PromptSegError` for a map that is damaged."""
        if shown and self._volume is not None:
            kept = slice_views.kept_map(self._volume)  # not as it came: the volume may have moved since
            if kept is None:
                raise PromptSegError("The map that was saved is damaged; tune or segment again for another.")
            slice_views.show_map(self._scene, self._volume, kept)
        elif self.shown:
            slice_views.hide_map(self._scene)
        self.shown = shown
