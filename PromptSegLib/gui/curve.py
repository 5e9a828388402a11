"""The small curve of a tuning."""

from __future__ import annotations

import math
from typing import Any, Sequence

import qt

from .i18n import _

_MARGIN, _TEXT = 4, 16


def draw(label: Any, points: Sequence[tuple[float, float, float]]) -> None:
    """Draw loss, and agreement with what was held back, over the share of the tuning into a label.

    :param points: (share, loss, agreement) with share and agreement in 0..1; nan where unknown.
    """
    width, height = max(int(label.width), 60), max(int(label.height), 40)
    palette = label.palette
    pixmap = qt.QPixmap(width, height)
    pixmap.fill(qt.QColor(0, 0, 0, 0))
    text, loss_color = palette.color(qt.QPalette.WindowText), palette.color(qt.QPalette.Highlight)
    agreement_color = _green(palette)
    faint = qt.QColor(text.red(), text.green(), text.blue(), 60)
    painter = qt.QPainter(pixmap)
    painter.setRenderHint(qt.QPainter.Antialiasing)
    painter.setPen(qt.QPen(faint, 1.0))
    painter.drawLine(_MARGIN, height - _MARGIN, width - _MARGIN, height - _MARGIN)
    losses = [(share, loss) for share, loss, _unused in points if math.isfinite(loss)]
    agreements = [(share, each) for share, _unused, each in points if math.isfinite(each)]
    most = max((loss for _unused, loss in losses), default=1.0) or 1.0
    room = (width - 2 * _MARGIN, height - 2 * _MARGIN - _TEXT)
    first = min((share for share, *_unused in points), default=0.0)  # before it there is nothing to see
    across = (1.0 - first) or 1.0
    _line(painter, [((share - first) / across, loss / most) for share, loss in losses], loss_color, room)
    _line(painter, [((share - first) / across, each) for share, each in agreements], agreement_color, room)
    metrics = painter.fontMetrics()
    said = [(_("Loss {value:.2f}").format(value=losses[-1][1]), loss_color)] if losses else []
    if agreements:
        text = _("Agreement on held-back slices {value:.0f} %").format(value=100 * agreements[-1][1])
        said.append((text, agreement_color))
    else:
        said.append((_("No slice was held back"), agreement_color))
    at = _MARGIN
    for each, color in said:
        painter.setPen(qt.QPen(color, 1.0))
        painter.drawText(at, _TEXT - 4, each)
        at += metrics.boundingRect(each).width() + 14
    painter.end()
    label.pixmap = pixmap


def _line(painter: Any, points: Sequence[tuple[float, float]], color: Any, room: tuple[int, int]) -> None:
    """A line through points of 0..1 by 0..1."""
    painter.setPen(qt.QPen(color, 1.6))
    places = [(_MARGIN + int(x * room[0]), _MARGIN + _TEXT + int((1 - y) * room[1])) for x, y in points]
    for (x0, y0), (x1, y1) in zip(places, places[1:]):
        painter.drawLine(x0, y0, x1, y1)


def _green(palette: Any) -> Any:
    """A green that is seen on this window."""
    dark = palette.color(qt.QPalette.Window).lightness() < 128
    return qt.QColor("#7fd38c" if dark else "#2e7d32")
