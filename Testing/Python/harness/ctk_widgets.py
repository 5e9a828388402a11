"""The widgets of ctk that the panel has, on PySide6."""

from __future__ import annotations

from typing import Any, Optional

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Signal


class ctkCollapsibleButton(QtWidgets.QWidget):
    """A bar with a text, and below it what can be folded away."""

    contentsCollapsed = Signal(bool)
    _BAR = 24

    def __init__(self, parent: Optional[QtWidgets.QWidget] = None):
        super().__init__(parent)
        self._text, self._collapsed, self._flat = "", False, False
        self.setContentsMargins(0, self._BAR, 0, 0)

    def _set_text(self, text: str) -> None:
        self._text = text
        self.update()

    def _set_collapsed(self, collapsed: bool) -> None:
        self._collapsed = collapsed
        self._fold()
        self.contentsCollapsed.emit(collapsed)

    def _set_flat(self, flat: bool) -> None:
        self._flat = flat

    text = Property(str, lambda self: self._text, _set_text)
    collapsed = Property(bool, lambda self: self._collapsed, _set_collapsed)
    flat = Property(bool, lambda self: self._flat, _set_flat)

    def _fold(self) -> None:
        # No override of sizeHint: where Qt's properties are attributes, PySide takes it for one and crashes.
        self.setMinimumHeight(self._BAR + 2 if self._collapsed else 0)
        self.setMaximumHeight(self._BAR + 2 if self._collapsed else 16777215)

    def mousePressEvent(self, event: QtGui.QMouseEvent) -> None:
        if event.position().y() < self._BAR:
            self._set_collapsed(not self._collapsed)

    def paintEvent(self, _event: QtGui.QPaintEvent) -> None:
        painter = QtWidgets.QStylePainter(self)
        bar = QtCore.QRect(0, 1, self.width(), self._BAR - 4)
        if not self._flat:
            option = QtWidgets.QStyleOptionButton()
            option.initFrom(self)
            option.rect = bar
            painter.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option)
        mark = "\u25b8" if self._collapsed else "\u25be"
        painter.drawText(bar.adjusted(8, 0, 0, 0), QtCore.Qt.AlignmentFlag.AlignVCenter, f"{mark}  {self._text}")
        painter.end()


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider with a spin box."""

    valueChanged = Signal(float)
    _STEPS = 1000

    def __init__(self, parent: Optional[QtWidgets.QWidget] = None):
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        self._spin = QtWidgets.QDoubleSpinBox()
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._spin)
        self._spin.valueChanged.connect(self._spun)
        self._slider.setRange(0, self._STEPS)
        self._slider.valueChanged.connect(self._slid)

    def _slid(self, position: int) -> None:
        low, high = self._spin.minimum(), self._spin.maximum()
        self._spin.setValue(low + (high - low) * position / self._STEPS)

    def _spun(self, value: float) -> None:
        low, high = self._spin.minimum(), self._spin.maximum()
        self._slider.blockSignals(True)
        self._slider.setValue(round((value - low) / ((high - low) or 1) * self._STEPS))
        self._slider.blockSignals(False)
        self.valueChanged.emit(value)

    def _forwarded(kind: type, name: str) -> Any:
        getter = lambda self: getattr(self._spin, name)()  # noqa: E731
        setter = lambda self, value: getattr(self._spin, f"set{name[0].upper()}{name[1:]}")(value)  # noqa: E731
        return Property(kind, getter, setter)

    value = _forwarded(float, "value")
    minimum = _forwarded(float, "minimum")
    maximum = _forwarded(float, "maximum")
    singleStep = _forwarded(float, "singleStep")
    decimals = _forwarded(int, "decimals")
    pageStep = Property(float, lambda self: 0.0, lambda self, value: None)
