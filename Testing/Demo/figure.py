"""The figure of how tuning works in docs/methods.md; ``python Testing/Demo/figure.py`` draws it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

PATH = Path(__file__).resolve().parents[2] / "PromptSeg" / "Resources" / "Pictures" / "tuning.png"

# A ground of its own, so that it reads the same on a light and on a dark page.
GROUND, INK, FAINT = "#FFFFFF", "#1F2A30", "#5B6B73"
DATA, FROZEN, LEARNED, RESULT = "#F3EBD3", "#D9E4EA", "#FBD9CC", "#CDEBE6"
EDGES = {DATA: "#B89B45", FROZEN: "#6C8796", LEARNED: "#D2502A", RESULT: "#0F7A70"}
WIDTH, HEIGHT = 160, 74  # of the drawing, in its own units


def draw(path: Path = PATH) -> None:
    """Write the figure (PNG)."""
    figure = Figure(figsize=(WIDTH / 12.5, HEIGHT / 12.5), dpi=110, facecolor=GROUND)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.set_axis_off()

    _heading(axes, 71.5, "On the patient you paint")
    _box(axes, 3, 48, 22, 16, DATA, "image", "any orientation\nand spacing")
    _box(axes, 33, 48, 26, 16, FROZEN, "encoder, frozen", "runs once; its features\nare kept")
    _box(axes, 67, 48, 26, 16, FROZEN, "decoder, frozen", "attends to the prompts\nof each class")
    _box(axes, 101, 48, 24, 16, RESULT, "evidence", "for each class,\nvoxel by voxel")
    _box(axes, 133, 48, 24, 16, RESULT, "segments", "on the image's\nown grid")
    _box(axes, 3, 22, 22, 14, DATA, "strokes", "a few voxels, and\nsome background")
    _box(axes, 67, 22, 26, 14, LEARNED, "prompts", "about 100 kB a class:\nall that is learned")
    _box(axes, 101, 22, 24, 14, LEARNED, "agreement", "with the painted\nvoxels only")
    _box(axes, 133, 22, 24, 14, RESULT, "growing", "strokes spread where\nthe evidence lets them")

    for start, end in (((25, 56), (33, 56)), ((59, 56), (67, 56)), ((93, 56), (101, 56))):
        _arrow(axes, start, end)
    _arrow(axes, (80, 36), (80, 48))
    _arrow(axes, (113, 48), (113, 36))
    _arrow(axes, (101, 29), (93, 29), EDGES[LEARNED])
    axes.text(97, 31.2, "improve", fontsize=9.5, color=EDGES[LEARNED], ha="center", va="bottom", style="italic")
    _arrow(axes, (125, 53), (137, 36), bend=-0.15)
    _arrow(axes, (147, 36), (147, 48))
    _arrow(axes, (25, 29), (67, 29))
    axes.text(
        46, 30.2, "start: those of a known organ\nthat agrees with the strokes, or the\nfeatures under them", **_SMALL
    )
    _line(axes, [(14, 22), (14, 18.2), (145, 18.2)])
    _arrow(axes, (145, 18.2), (145, 22))
    _arrow(axes, (113, 18.2), (113, 22))

    axes.plot((3, 157), (15.2, 15.2), color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    _heading(axes, 11.6, "On the next patients")
    for x, width, color, text in (
        (33, 20, DATA, "image"),
        (61, 28, FROZEN, "the same network"),
        (97, 24, LEARNED, "your prompts"),
        (129, 28, RESULT, "segments"),
    ):
        _box(axes, x, 3, width, 8, color, text)
    for left, right in ((53, 61), (121, 129)):
        _arrow(axes, (left, 7), (right, 7))
    axes.text(93, 7, "+", fontsize=15, color=INK, ha="center", va="center")
    canvas.draw()
    # Few colors, so a palette makes it a third of the size.
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(96).save(path, optimize=True)


_SMALL: dict[str, Any] = {"fontsize": 9, "color": FAINT, "ha": "center", "va": "bottom", "linespacing": 1.15}


def _heading(axes: Axes, y: float, text: str) -> None:
    axes.text(3, y, text, fontsize=13, weight="bold", color=INK, va="top")


def _box(axes: Axes, x: float, y: float, width: float, height: float, color: str, title: str, text: str = "") -> None:
    style = "round,pad=0,rounding_size=1.6"
    axes.add_patch(FancyBboxPatch((x, y), width, height, style, facecolor=color, edgecolor=EDGES[color], linewidth=1.4))
    middle = x + width / 2
    at = y + height - (3.6 if text else height / 2)
    axes.text(middle, at, title, fontsize=12, weight="bold" if text else "normal", color=INK, ha="center", va="center")
    axes.text(middle, y + (height - 6) / 2 + 0.4, text, fontsize=9.8, color=INK, ha="center", va="center")


def _arrow(axes: Axes, start: tuple, end: tuple, color: str = INK, bend: float = 0.0) -> None:
    curve = f"arc3,rad={bend}"
    look: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 13, "color": color, "linewidth": 1.5}
    shape = FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, connectionstyle=curve, **look)
    axes.add_patch(shape)


def _line(axes: Axes, points: list[tuple]) -> None:
    axes.plot(*zip(*points), color=INK, linewidth=1.5, solid_joinstyle="round")


if __name__ == "__main__":
    draw()
