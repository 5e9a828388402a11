"""Grid, crops and intensity rule of a task, from its examples, for methods that lean on no shipped class."""

from __future__ import annotations

from dataclasses import replace
from typing import Mapping, Optional, Sequence

import numpy as np
import SimpleITK as sitk
from scipy.optimize import linear_sum_assignment

from ..annotation.example import Example
from ..errors import Sentence
from ..imaging.geometry import Grid, nonzero_extent
from ..imaging.intensity import ROBUST_PERCENTILES, decide
from ..imaging.preprocessing import Preprocessing
from ..models.backbone import Backbone

MOST_VOXELS = 1_500_000  # of a volume: tiles of it are what the next patient costs
THICK = 2.0  # the longest step of the grid, in shortest ones: bodies were trained on nearly cubic voxels
AROUND = 2.0  # a crop, in the largest structure's length: on sarcomas of some 10 cm .386 Dice, .322 on finer voxels
TOGETHER = 0.75  # a crop, in the length of all classes together, where there are several
FEWEST = 5  # voxels along the least of them
COVERED = 0.85  # share of a volume that half a crop has to hold, to be enough
DIFFERENT = 1.5  # times as long along an axis: worth a sentence


def working_preprocessing(
    examples: Sequence[Example], backbone: Backbone, classes: Optional[Mapping[str, int]] = None
) -> Preprocessing:
    """The examples' own spacing, and percentiles where one of them does not fit the body's intensity window.

    The spacing is the median over the examples, no axis more than ``THICK`` times the finest, and coarser where a
    volume would have more than ``MOST_VOXELS``, or, along finer axes up to the coarsest's, where a crop is less than
    ``AROUND`` times as long as what is annotated as one of the ``classes``; or, of several, less than ``TOGETHER``
    times as long as all of them, as far as the least keeps ``FEWEST`` voxels. Crops are the body's, but half as long
    along an axis along which half a crop covers nearly all of a volume: what a crop holds beside it is air.
    """
    body = backbone.preprocessing
    steps = np.median([upright_spacing(Grid.of(each.image)) for each in examples], axis=0)
    steps = np.minimum(steps, THICK * steps.min())
    values = [[value] for value in (classes or {}).values()]
    lengths, crop = [_longest(examples, each) for each in values], np.asarray(backbone.crop)
    if lengths:
        steps = np.maximum(steps, np.minimum(AROUND * np.max(lengths, axis=0) / crop, steps.max()))
    if len(lengths) > 1:  # alike as vertebrae are, no network tells them apart in crops that show hardly one and a half
        needed = TOGETHER * _longest(examples, sum(values, [])) / crop
        steps = np.maximum(steps, np.minimum(needed, np.min(lengths, axis=0) / FEWEST))
        steps = np.maximum(steps, steps.max() / THICK)
    volumes = [np.prod(np.asarray(each.image.GetSize()) * np.asarray(each.image.GetSpacing())) for each in examples]
    steps = steps * max(1.0, (float(np.median(volumes)) / float(np.prod(steps)) / MOST_VOXELS) ** (1 / 3))
    z, y, x = (round(float(step), 3) for step in steps)
    extents = [_upright_length(Grid.of(each.image)) / np.asarray((z, y, x)) for each in examples]
    chosen = replace(body, spacing=(z, y, x), crop=_crop(np.max(extents, axis=0), backbone))
    if body.rule == "window" and not all(_fits(each.image, body) for each in examples):
        chosen = replace(chosen, rule="percentile", intensity=ROBUST_PERCENTILES)
    return chosen


def said_of(examples: Sequence[Example], body: Preprocessing, chosen: Preprocessing) -> list[str]:
    """What the user should know of examples that differ: one sentence for spacings, one for intensities."""
    said: list[str] = []
    steps = np.array([upright_spacing(Grid.of(each.image)) for each in examples])
    if (steps.max(0) > DIFFERENT * steps.min(0)).any():
        said.append(
            Sentence(
                "The examples' voxels differ, from {least} to {most} mm; all are read at {common} mm.",
                least=_voxels(steps.min(0)),
                most=_voxels(steps.max(0)),
                common=_voxels(chosen.spacing),
            )
        )
    fitting = [_fits(each.image, body) for each in examples]
    if body.rule != "percentile" and any(fitting) and not all(fitting):
        said.append(
            Sentence(
                "Some examples are CT in Hounsfield units and others are not ({others}); all are read by the range of "
                "their own intensities, and so are the images to come.",
                others=", ".join(each.name for each, fits in zip(examples, fitting) if not fits),
            )
        )
    return said


def _voxels(steps: Sequence[float]) -> str:
    return " x ".join(f"{step:g}" for step in np.round(steps, 2)[::-1])


def _crop(extents: np.ndarray, backbone: Backbone) -> Optional[tuple[int, int, int]]:
    """The crop for volumes of at most these extents, voxels (z, y, x); None for the body's own."""
    z, y, x = (
        crop // 2 if crop % (2 * step) == 0 and crop // 2 >= COVERED * extent else crop
        for crop, step, extent in zip(backbone.crop, backbone.config.stride, extents)
    )
    return None if (z, y, x) == backbone.crop else (z, y, x)


def _longest(examples: Sequence[Example], values: Sequence[int]) -> np.ndarray:
    """How far (z, y, x) what has these values in annotations reaches along the patient's axes, mm, at most."""
    longest = np.zeros(3)
    for each in examples:
        voxels, grid = sitk.GetArrayViewFromImage(each.annotation), Grid.of(each.annotation)
        extent = nonzero_extent(np.isin(voxels, values))
        if extent is not None:
            x0, x1, y0, y1, z0, z1 = extent
            part = grid.part((x0, y0, z0), (x1 + 1, y1 + 1, z1 + 1))
            longest = np.maximum(longest, _upright_length(part))
    return longest


def _upright_length(grid: Grid) -> np.ndarray:
    """How long (z, y, x) an image is along the patient's axes, mm: along the image axis that runs along each."""
    lengths = np.asarray(grid.size) * np.asarray(grid.spacing)
    return lengths[_image_axes(grid)][::-1]


def upright_spacing(grid: Grid) -> tuple[float, float, float]:
    """The spacing (z, y, x), mm, along the patient's axes: of the image axis that runs along each."""
    x, y, z = (float(grid.spacing[axis]) for axis in _image_axes(grid))
    return z, y, x


def _image_axes(grid: Grid) -> np.ndarray:
    """Which axis of an image runs along each of the patient's (x, y, z); each along one, however oblique it is."""
    axes: np.ndarray = linear_sum_assignment(np.abs(np.reshape(grid.direction, (3, 3))), maximize=True)[1]
    return axes


def _fits(image: sitk.Image, body: Preprocessing) -> bool:
    """Whether an image has a CT's unit, which a body for images without one is not asked for."""
    return decide(image, body if body.rule == "window" else Preprocessing()).fits_window
