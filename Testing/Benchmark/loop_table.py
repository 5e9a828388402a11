"""What ``loop.py`` has measured, as tables in Markdown and one small plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

Row = dict[str, Any]
COLUMNS = (
    ("stroke to region, cold", "stroke, cold first"),
    ("warm", "stroke, warm first"),
    ("click to first preview, cold", "tune, cold first"),
    ("warm", "tune, warm first"),
    ("to 95 %", "tune, warm 95 %"),
    ("to the result, cold", "tune, cold"),
    ("warm", "tune, warm"),
    ("correction", "correction first"),
    ("retuned", "retune"),
    ("whole volume", "whole volume"),
    ("Grow from seeds", "Grow from seeds"),
    ("fine-tuning", "fine-tuning"),
)
GROWS = (
    ("stroke to region", "stroke, warm first cpu s"),
    ("first preview", "tune, warm first cpu s"),
    ("whole volume", "whole volume cpu s"),
    ("volumes in a batch", "volumes cpu s"),
)
AXES = (("classes", "classes"), ("painted voxels", "painted"), ("voxels", "voxels"), ("volumes", "volumes"))


def table(rows: list[Row]) -> str:
    """Waiting times, then quality and memory, then how they grow."""
    if not rows:
        return "Nothing has been computed yet."
    return "\n\n".join([_times(rows), _others(rows), _growth(rows)])


def _cell(row: Row, key: str, digits: int = 1) -> str:
    return f"{row[key]:.{digits}f}" if isinstance(row.get(key), (int, float)) else "-"


def _name(row: Row) -> str:
    return f"{row['key']} ({row['voxels'] / 1e6:.1f} M voxels)"


def _times(rows: list[Row]) -> str:
    lines = ["Seconds; in parentheses the worker's processor seconds.", ""]
    lines += ["| | " + " | ".join(title for title, _ in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in rows:
        cells = [f"{_cell(row, f'{key} s')} ({_cell(row, f'{key} cpu s')})" for _, key in COLUMNS]
        lines.append(f"| {_name(row)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _others(rows: list[Row]) -> str:
    titles = ["grown Dice", "tuned Dice", "GFS Dice", "fine-tuned Dice", "tuned / GFS, s", "longest gap, s"]
    titles += ["worker MB", "main MB", "load"]
    lines = ["| | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for row in rows:
        gaps = [value for key, value in row.items() if key.endswith(" gap s")]
        seeds, tuned = row.get("Grow from seeds s"), row.get("tune, warm s")
        cells = [_cell(row, key, 3) for key in ("stroke, cold Dice", "tune, cold Dice")]
        cells += [_cell(row, f"{key} Dice", 3) for key in ("Grow from seeds", "fine-tuning")]
        cells += [f"{tuned / seeds:.0f}" if seeds and tuned else "-", f"{max(gaps):.3f}" if gaps else "-"]
        cells += [_cell(row, "worker MB", 0), _cell(row, "main MB", 0), _cell(row, "load")]
        lines.append(f"| {_name(row)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def series(rows: list[Row], axis: str, key: str) -> list[tuple[float, float]]:
    """What grows along an axis: (how much, processor seconds), of rows that differ in nothing else."""
    others = {"classes": ("image", "painted_slices", "volumes"), "voxels": ("classes", "painted_slices", "volumes")}
    fixed = others.get(axis, ("image", "classes"))
    best: list[tuple[float, float]] = []
    for group in {tuple(_of(row, name) for name in fixed) for row in rows}:
        own = [row for row in rows if tuple(_of(row, name) for name in fixed) == group and key in row]
        own = [row for row in own if row["image"] != "mr" or axis == "classes"]
        found = sorted({row[axis]: row[key] for row in own}.items())
        best = max(best, found, key=len)
    return best if len(best) > 1 else []


def _of(row: Row, name: str) -> Any:
    return row["key"].split(", ")[2] if name == "painted_slices" else row[name]


def exponent(points: list[tuple[float, float]]) -> Optional[float]:
    """The power with which seconds grow from the least to the most; 1 is linear."""
    from math import log

    (x0, y0), (x1, y1) = points[0], points[-1]
    return log(y1 / y0) / log(x1 / x0) if min(x0, y0, y1) > 0 and x1 > x0 else None


def _growth(rows: list[Row]) -> str:
    lines = ["| what | along | from | to | processor seconds | power (1: linear) |", "|---|---|---|---|---|---|"]
    for title, axis in AXES:
        for what, key in GROWS:
            points = series(rows, axis, key)
            if points:
                power = exponent(points)
                told = f"{power:.2f}" if power is not None else "-"
                spent = " → ".join(f"{value:.1f}" for _, value in points)
                lines.append(f"| {what} | {title} | {points[0][0]:g} | {points[-1][0]:g} | {spent} | {told} |")
    return "\n".join(lines)


def plot(rows: list[Row], path: Path) -> None:
    """One small picture: processor seconds along each axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, axis) in enumerate(AXES, 1):
        axes = figure.add_subplot(1, len(AXES), place)
        for what, key in GROWS:
            points = series(rows, axis, key)
            if points:
                axes.plot(*zip(*points), marker="o", markersize=3, label=what)
        axes.set_xlabel(title)
        axes.set_ylim(bottom=0)
        if place == 1:
            axes.set_ylabel("processor seconds")
        if axes.has_data():
            axes.legend(fontsize=6)
    figure.savefig(path)
