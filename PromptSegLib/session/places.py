"""Where to look next, and the uncertainty over the volume."""

from __future__ import annotations

from typing import Any, Optional

import SimpleITK as sitk

from ..scene import looking


class Places:
    """Of the last result of a volume: the places where the network is unsure, and the map of it."""

    def __init__(self, scene: Any):
        self._scene = scene
        self._volume: Any = None
        self._points: tuple[tuple[float, float, float], ...] = ()
        self._next = 0
        self._map: Optional[sitk.Image] = None
        self.shown = False

    def remember(self, volume: Any, points: tuple[tuple[float, float, float], ...], uncertainty: sitk.Image) -> None:
        """Take what came with a result; a map that is shown follows it."""
        self._volume, self._points, self._next, self._map = volume, points, 0, uncertainty
        if self.shown:
            looking.show_map(self._scene, volume, uncertainty)

    def forget(self, volume: Any = None) -> None:
        """Forget what is known of a volume, or of any."""
        if volume is None or volume is self._volume:
            self._volume, self._points, self._next, self._map = None, (), 0, None

    def any(self, volume: Any) -> bool:
        """Whether there is a place to look at."""
        return volume is not None and volume is self._volume and bool(self._points)

    def has_map(self, volume: Any) -> bool:
        return volume is not None and volume is self._volume and self._map is not None

    def text(self, volume: Any) -> str:
        """Which place comes next, for the panel."""
        return f"Place {self._next + 1} of {len(self._points)}" if self.any(volume) else ""

    def go(self) -> None:
        """Move the slice views to the next place."""
        looking.jump_to(self._scene, self._points[self._next])
        self._next = (self._next + 1) % len(self._points)

    def show(self, shown: bool) -> None:
        """Show or hide the map."""
        if shown and self._map is not None:
            looking.show_map(self._scene, self._volume, self._map)
        elif self.shown:
            looking.hide_map(self._scene)
        self.shown = shown
