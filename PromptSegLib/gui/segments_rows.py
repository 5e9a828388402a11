"""The lines of the list of segments, and which of them is next. No widget is needed for that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..scene.segment_list import is_shown
from ..session import segments_table


@dataclass(frozen=True)
class SegmentRow:
    """``color`` is RGB in 0..255; ``shown`` whether the views show it."""

    id: str
    name: str
    color: tuple[int, int, int]
    role: str
    is_empty: bool
    shown: bool


def segment_rows(scene: Any, segmentation: Any) -> tuple[SegmentRow, ...]:
    """Structures first, in the segmentation's order, then the background."""
    found = [
        SegmentRow(
            each.id,
            each.name,
            (round(255 * each.color[0]), round(255 * each.color[1]), round(255 * each.color[2])),
            each.role,
            each.is_empty,
            is_shown(segmentation, each.id),
        )
        for each in segments_table.rows(scene, segmentation)
    ]
    return tuple(sorted(found, key=lambda row: row.role == "background"))


def next_id(rows: tuple[SegmentRow, ...], current: str) -> str:
    """The ID of the segment after ``current``, around the end; the first where there is none such; "" of none."""
    ids = [row.id for row in rows]
    return ids[(ids.index(current) + 1) % len(ids)] if current in ids else (ids or [""])[0]


def background_id(rows: tuple[SegmentRow, ...]) -> str:
    """The ID of the first background; "" without one."""
    return next((row.id for row in rows if row.role == "background"), "")


def input_summary(volume: Any, segmentation: Any, model: str) -> str:
    """What was chosen, in one line."""
    parts = [each.GetName() or "" for each in (volume, segmentation) if each is not None]
    return " \u2192 ".join(parts) + (f" \u00b7 {model}" if model else "")
