"""The icon: tokens flow into an organ that a stroke was painted in; ``python Testing/Demo/icon.py`` draws it."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, PathPatch
from matplotlib.path import Path as Outline
from PIL import Image
from scipy.interpolate import CubicSpline

ROOT = Path(__file__).resolve().parents[2]
PLACES = ROOT / "PromptSeg.png", ROOT / "PromptSeg" / "Resources" / "Icons" / "PromptSeg.png"
SIZE = 128  # pixels, as Slicer wants it
OVERSAMPLING = 8

# Mid-tones, so that they stand out from a white and from a dark gray window alike.
FILL, EDGE, PAINT, TOKEN = "#22B3A2", "#0F7A70", "#FFD84D", "#F0592A"
# Coordinates from 0 to 100, y up. The organ goes around counterclockwise.
ORGAN = [(19, 45), (17, 24), (30, 7), (54, 4), (80, 9), (94, 27), (94, 53), (83, 70), (65, 74), (50, 64), (33, 59)]
STROKE = [(35, 31), (45, 19), (58, 27), (69, 42), (83, 35)]
TOKENS = [(10, 90, 9), (13, 67, 9), (34, 83, 9), (45, 50, 7)]  # x, y, radius; the last one has arrived


def draw(size: int = SIZE) -> Image.Image:
    """The icon, ``size`` x ``size`` RGBA on a transparent ground, drawn large and then made small."""
    large = size * OVERSAMPLING
    figure = Figure(figsize=(1, 1), dpi=large)
    figure.patch.set_alpha(0)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 100), ylim=(0, 100))
    axes.set_axis_off()
    unit = 72 / 100  # points per unit of the coordinates, as a line's width is given in points

    around = _smooth([*ORGAN, ORGAN[0]], closed=True)
    axes.add_patch(PathPatch(Outline(around), facecolor=FILL, edgecolor=EDGE, linewidth=6 * unit, joinstyle="round"))
    along = _smooth(STROKE)
    axes.plot(*along.T, color=PAINT, linewidth=13 * unit, solid_capstyle="round", solid_joinstyle="round")
    for x, y, radius in TOKENS:
        axes.add_patch(Circle((x, y), radius, facecolor=TOKEN, edgecolor="none"))

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba()))
    # Colors weighted with their opacity: else the transparent ground would shine through at the edges.
    return image.convert("RGBa").resize((size, size), Image.Resampling.LANCZOS).convert("RGBA")


def _smooth(points: Sequence[tuple[float, float]], closed: bool = False) -> np.ndarray:
    """A smooth line through the points, as an array (n, 2)."""
    corners = np.asarray(points, float)
    at = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1))])
    spline = CubicSpline(at, corners, bc_type="periodic" if closed else "natural")
    return spline(np.linspace(0, at[-1], 400))


def main() -> None:
    """Write the icon to all places it is needed at."""
    icon = draw()
    for path in PLACES:
        path.parent.mkdir(parents=True, exist_ok=True)
        icon.save(path, optimize=True)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
