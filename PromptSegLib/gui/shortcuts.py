"""Keyboard shortcuts while the module is open.

The Segment Editor's are single keys, Shift with a digit, and the platform's own for undo and redo. Slicer's toolbars
have Ctrl+Shift with A, T, Space and arrows. These collide with none of them.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping

import qt

KEYS = {
    "tune": "Ctrl+Shift+P",
    "apply": "Ctrl+Shift+Return",
    "discard": "Ctrl+Shift+Backspace",
    "look": "Ctrl+Shift+N",
    "map": "Ctrl+Shift+M",
    "next": "Ctrl+Shift+K",
    "background": "Ctrl+Shift+B",
}


def hint(action: str) -> str:
    """A shortcut as it is appended to a tooltip."""
    return f" ({qt.QKeySequence(KEYS[action]).toString(qt.QKeySequence.NativeText)})"


class Shortcuts:
    """The shortcuts of a window, from :meth:`install` to :meth:`remove`.

    :param actions: what each of :data:`KEYS` does.
    """

    def __init__(self, actions: Mapping[str, Callable[[], None]]):
        self._actions = dict(actions)
        self._installed: list[Any] = []

    def install(self, window: Any) -> None:
        """Does nothing without a window, as in tests of the application, and where they are installed already."""
        if window is None or self._installed:
            return
        for name, action in self._actions.items():
            shortcut = qt.QShortcut(qt.QKeySequence(KEYS[name]), window)
            shortcut.activated.connect(action)
            self._installed.append(shortcut)

    def remove(self) -> None:
        while self._installed:
            shortcut = self._installed.pop()
            shortcut.enabled = False  # at once; the object goes when the event loop comes to it
            shortcut.setParent(None)
            shortcut.deleteLater()
