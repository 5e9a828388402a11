"""What the sections do with widgets again and again.

Written for PythonQt and PySide alike: Qt properties are attributes, signals are connected as
``widget.signal.connect(slot)``, and a slot takes whatever a signal of either sends.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Iterable, Iterator, Mapping

import qt

from ..session.actions import Level, Notice
from .i18n import said

# On a light and on a dark window.
_COLORS = {Level.ERROR: ("#b3261e", "#ff8a80"), Level.WARNING: ("#8a5a00", "#ffc46b")}


@contextmanager
def quietly(widget: Any) -> Iterator[None]:
    """No signals of a widget while it is brought up to date."""
    before = widget.blockSignals(True)
    try:
        yield
    finally:
        widget.blockSignals(before)


def allow(button: Any, reason: str, tip: str = "") -> None:
    """Enable a button, or say in its tooltip why it is not."""
    button.enabled = not reason
    button.toolTip = reason or tip


def check(box: Any, checked: bool) -> None:
    """Show a state in a checkable button without telling anybody."""
    if box.checked != checked:
        with quietly(box):
            box.checked = checked


def fill(combo: Any, items: Iterable[tuple[str, str, str]], key: str) -> None:
    """Show (key, text, tooltip) in a combo box and select a key; does nothing where nothing changed."""
    items = list(items)
    with quietly(combo):
        if [(combo.itemData(n), combo.itemText(n)) for n in range(combo.count)] != [item[:2] for item in items]:
            combo.clear()
            for index, (each, text, tip) in enumerate(items):
                combo.addItem(text, each)
                combo.setItemData(index, tip, qt.Qt.ToolTipRole)
        index = next((n for n, item in enumerate(items) if item[0] == key), -1)
        if combo.currentIndex != index:
            combo.currentIndex = index


def chosen(combo: Any) -> str:
    """The key of the selected item of a combo box that :func:`fill` filled."""
    return str(combo.itemData(combo.currentIndex))


def choices(texts: Mapping[Any, Any]) -> list[tuple[str, str, str]]:
    """Items for :func:`fill`, of key -> text or key -> (text, tooltip)."""
    pairs = {key: (each, "") if isinstance(each, str) else each for key, each in texts.items()}
    return [(str(key), said(text), said(tip) if tip else "") for key, (text, tip) in pairs.items()]


def show_text(label: Any, text: str) -> None:
    """Show a text, or hide the label where there is none."""
    if label.text != text:
        label.text = text
    label.visible = bool(text)


def show_notice(label: Any, notice: Notice) -> None:
    """Show a sentence in the color of its level, which stays readable on dark and on light windows."""
    show_text(label, said(notice.text) if notice.text else "")
    palette = label.parent().palette if label.parent() is not None else label.palette
    colors = _COLORS.get(notice.level)
    if colors is not None:
        dark = palette.color(qt.QPalette.Window).lightness() < 128
        palette.setColor(qt.QPalette.WindowText, qt.QColor(colors[dark]))
    label.palette = palette


def show_progress(bar: Any, share: float) -> None:
    """Show 0..1 in a progress bar of 100 steps. Left to itself, it would paint at once and hold everything up."""
    value = int(100 * share)
    if bar.value != value:
        bar.updatesEnabled = False
        bar.value = value
        bar.updatesEnabled = True


def on_choice(combo: Any, slot: Callable[[str], None]) -> Callable[..., None]:
    """Call ``slot`` with the key that was chosen. Keep what is returned as long as the combo box lives."""

    def changed(*_args: Any) -> None:
        if combo.currentIndex >= 0:
            slot(chosen(combo))

    combo.currentIndexChanged.connect(changed)
    return changed
