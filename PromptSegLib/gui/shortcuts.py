"""Keyboard shortcuts while the module is open.

The Segment Editor's are single keys, Shift with a digit, and the platform's own for undo and redo. Slicer's toolbars
have Ctrl+Shift with A, T, Space and arrows. These collide with none of them, but for undo and redo: the editor's are
set aside while the module is open. They undo without asking whether there is anything to undo, which ends in warnings,
and do not know of what was changed while another segmentation was shown.
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
_STANDARD = {"undo": "Undo", "redo": "Redo"}  # the platform's own


def hint(action: str) -> str:
    """A shortcut as it is appended to a tooltip."""
    return f" ({qt.QKeySequence(KEYS[action]).toString(qt.QKeySequence.NativeText)})"


class Shortcuts:
    """The shortcuts of a window, from :meth:`install` to :meth:`remove`.

    :param actions: what each of :data:`KEYS` does, and ``undo`` and ``redo``.
    """

    def __init__(self, actions: Mapping[str, Callable[[], None]]):
        self._actions = dict(actions)
        self._installed: list[Any] = []

    def install(self, window: Any) -> None:
        """Does nothing without a window, as in tests of the application, and where they are installed already."""
        if window is None:
            return
        self._set_aside(window)
        for name, action in self._actions.items() if not self._installed else ():
            shortcut = qt.QShortcut(_sequence(name), window)
            shortcut.activated.connect(action)
            self._installed.append(shortcut)

    def _set_aside(self, window: Any) -> None:
        """Others with the platform's own keys; their owners take them away when the module is left."""
        standard = [_sequence(name).toString() for name in _STANDARD]
        for other in window.findChildren(qt.QShortcut):
            if other.key.toString() in standard and not any(other is each for each in self._installed):
                other.enabled = False

    def remove(self) -> None:
        while self._installed:
            shortcut = self._installed.pop()
            shortcut.enabled = False  # at once; the object goes when the event loop comes to it
            shortcut.setParent(None)
            shortcut.deleteLater()


def _sequence(name: str) -> Any:
    return qt.QKeySequence(getattr(qt.QKeySequence, _STANDARD[name]) if name in _STANDARD else KEYS[name])
