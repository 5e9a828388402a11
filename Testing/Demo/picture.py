"""The demo's one picture: slices with scribbles, result and reference, and the result in 3D."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping, Sequence

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import ndimage

from PromptSegLib.annotation.classes import ClassInfo

WINDOW = -150, 250  # HU
BODY = -300  # HU; what is below is air
ROWS = 3


def draw(
    path: Path,
    ct: sitk.Image,
    first: sitk.Image,
    scribbles: sitk.Image,
    result: sitk.Image,
    reference: sitk.Image,
    segments: Sequence[ClassInfo],
    notes: Mapping[str, tuple[str, ...]],
    view: np.ndarray,
) -> None:
    """Write the picture (PNG).

    :param first: the scribbles before the correction; what ``scribbles`` has more is pointed out.
    :param segments: what the label values stand for, in the order of the legend.
    :param notes: segment name -> Dice and whether the backbone knows it, as the legend puts it.
    :param view: the result in 3D, RGBA.
    """
    # Rows run to posterior and columns to the patient's left: shown as they are, slices are radiological.
    turned = [sitk.DICOMOrient(each, "LPS") for each in (ct, first, scribbles, result, reference)]
    width, height, step = turned[0].GetSpacing()
    top = turned[0].GetOrigin()[2]
    image, before, drawn, found, truth = (sitk.GetArrayFromImage(each) for each in turned)
    box = _body(image)
    inside = (slice(None), *box)
    new = (drawn != before)[inside]
    image, drawn, found, truth = (each[inside] for each in (image, drawn, found, truth))
    colors = {info.value: info.color for info in segments}

    figure = Figure(figsize=(16, 8.4), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        1, 2, width_ratios=(1.62, 1), left=0.012, right=0.99, top=0.945, bottom=0.02, wspace=0.03
    )
    slices = grid[0].subgridspec(ROWS, 3, wspace=0.025, hspace=0.03)
    share = f"{100 * (drawn > 0).sum() / before.size:.1f} %"
    titles = (
        f"Scribbles ({share} of the voxels)",
        "Result after one correction",
        "Reference",
        "Result in 3D, from the front",
    )
    for title, cell in zip(titles, (slices[0, 0], slices[0, 1], slices[0, 2], grid[1])):
        place = cell.get_position(figure)
        figure.text((place.x0 + place.x1) / 2, place.y1 + 0.014, title, fontsize=14, ha="center")
    for row, index in enumerate(_chosen(drawn, truth, new)):
        for column, (labels, kind) in enumerate(((drawn, "strokes"), (found, "areas"), (truth, "areas"))):
            axes = figure.add_subplot(slices[row, column])
            axes.imshow(image[index], cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1], interpolation="bicubic")
            (_strokes if kind == "strokes" else _areas)(axes, labels[index], colors)
            if kind == "strokes" and new[index].any():
                _point_out(axes, new[index])
            axes.set_aspect(height / width)
            axes.set_axis_off()
            for text, x, side in (("R", 0.015, "left"), ("L", 0.985, "right")):
                axes.text(x, 0.5, text, color="0.8", fontsize=10, va="center", ha=side, transform=axes.transAxes)
            if column == 0:
                mark = f"z = {top + index * step:.0f} mm"
                axes.text(0.015, 0.03, mark, color="0.8", fontsize=10, transform=axes.transAxes)

    right = grid[1].subgridspec(2, 1, height_ratios=(1.1, 1), hspace=0.02)
    axes = figure.add_subplot(right[0])
    axes.imshow(view, interpolation="antialiased")
    axes.set_axis_off()
    _legend(figure.add_subplot(right[1]), segments, notes)
    figure.savefig(path)


def _legend(axes: Axes, segments: Sequence[ClassInfo], notes: Mapping[str, tuple[str, ...]]) -> None:
    """A table: color, structure, Dice, and whether the backbone knows the structure."""
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(len(segments) + 0.9, -0.9))
    for x, title, side in ((0.15, "Structure", "left"), (0.63, "Dice", "right"), (0.7, "Backbone", "left")):
        axes.text(x, -0.2, title, fontsize=13, ha=side, va="center", color="0.35")
    axes.plot((0.08, 0.92), (0.35, 0.35), color="0.75", linewidth=1)
    for row, info in enumerate(segments, 1):
        axes.add_patch(Rectangle((0.085, row - 0.29), 0.04, 0.58, facecolor=info.color, edgecolor="0.4", linewidth=0.6))
        axes.text(0.15, row, info.name, fontsize=13, va="center")
        dice, known = notes.get(info.name, ("", ""))
        axes.text(0.63, row, dice, fontsize=13, ha="right", va="center")
        axes.text(0.7, row, known, fontsize=13, va="center", weight="bold" if known == "never seen" else "normal")


def _body(image: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the largest thing that is not air, with a margin."""
    parts, _ = ndimage.label(ndimage.binary_opening(image > BODY, iterations=2))
    largest = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    ranges = []
    for axis in (1, 2):
        along = np.flatnonzero(largest.any(tuple(other for other in range(3) if other != axis)))
        ranges.append(slice(max(int(along[0]) - 3, 0), int(along[-1]) + 4))
    return ranges[0], ranges[1]


def _chosen(drawn: np.ndarray, truth: np.ndarray, new: np.ndarray) -> list[int]:
    """Slices to show, superior first: the corrected one, and others, apart, with strokes that are not shown yet."""
    values = [set(np.unique(strokes)) - {0} for strokes in drawn]
    there = [len(np.unique(labels)) for labels in truth]
    chosen = [int(new.sum((1, 2)).argmax())] if new.any() else []
    apart = len(drawn) // (2 * ROWS)
    while len(chosen) < ROWS:
        shown = set().union(*(values[index] for index in chosen))
        free = [index for index in range(len(drawn)) if all(abs(index - other) >= apart for other in chosen)]
        worth = [2 * len(values[index] - shown) + len(values[index]) + 0.5 * there[index] for index in free]
        chosen.append(free[int(np.argmax(worth))])
    return sorted(chosen, reverse=True)


def _strokes(axes: Axes, labels: np.ndarray, colors: dict[int, tuple]) -> None:
    """Painted voxels as they are."""
    layer = np.zeros((*labels.shape, 4))
    for value, color in colors.items():
        layer[labels == value] = (*color, 1.0)
    axes.imshow(layer, interpolation="nearest")


def _areas(axes: Axes, labels: np.ndarray, colors: dict[int, tuple]) -> None:
    """Structures as tinted areas with a line around."""
    for value, color in colors.items():
        mask = np.pad((labels == value).astype(float), 1)
        if mask.any():
            rows, columns = (np.arange(extent) - 1 for extent in mask.shape)
            axes.contourf(columns, rows, mask, levels=(0.5, 2), colors=[color], alpha=0.45)
            axes.contour(columns, rows, mask, levels=(0.5,), colors=[color], linewidths=1.4)


def _point_out(axes: Axes, stroke: np.ndarray) -> None:
    """An arrow from the middle of the slice to a stroke."""
    places = np.argwhere(stroke)
    goal = places[np.abs(places - places.mean(0)).sum(1).argmin()]
    middle = np.array(stroke.shape) / 2
    away = middle - goal
    start = goal + away / max(np.hypot(*away), 1e-6) * 0.3 * stroke.shape[0]
    axes.annotate(
        "correction",
        xy=goal[::-1],
        xytext=start[::-1],
        color="white",
        fontsize=11,
        ha="center",
        va="center",
        arrowprops={"arrowstyle": "->", "color": "white", "linewidth": 1.3},
        bbox={"boxstyle": "round,pad=0.2", "facecolor": "black", "edgecolor": "none", "alpha": 0.55},
    )
