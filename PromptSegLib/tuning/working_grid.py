"""The grid and the intensity rule of a task, from its examples, for methods that lean on no shipped class."""

from __future__ import annotations

from dataclasses import replace
from typing import Sequence

import numpy as np
import SimpleITK as sitk

from ..annotation.example import Example
from ..imaging.geometry import Grid
from ..imaging.intensity import decide
from ..imaging.preprocessing import Preprocessing

MOST_VOXELS = 1_500_000  # of a volume: tiles of it are what the next patient costs
THICK = 2.0  # the longest step of the grid, in shortest ones: bodies were trained on nearly cubic voxels
PERCENTILES = (0.5, 99.5)


def working_preprocessing(examples: Sequence[Example], body: Preprocessing) -> Preprocessing:
    """The examples' own spacing, and percentiles where one of them does not fit the body's intensity window.

    The spacing is the median over the examples, no axis more than ``THICK`` times the finest, and coarser where a
    volume would have more than ``MOST_VOXELS``.
    """
    steps = np.median([upright_spacing(Grid.of(each.image)) for each in examples], axis=0)
    steps = np.minimum(steps, THICK * steps.min())
    volumes = [np.prod(np.asarray(each.image.GetSize()) * np.asarray(each.image.GetSpacing())) for each in examples]
    steps = steps * max(1.0, (float(np.median(volumes)) / float(np.prod(steps)) / MOST_VOXELS) ** (1 / 3))
    z, y, x = (round(float(step), 3) for step in steps)
    chosen = replace(body, spacing=(z, y, x))
    if body.rule == "window" and not all(_fits(each.image, body) for each in examples):
        chosen = replace(chosen, rule="percentile", intensity=PERCENTILES)
    return chosen


def upright_spacing(grid: Grid) -> tuple[float, float, float]:
    """The spacing (z, y, x), mm, along the patient's axes: of the image axis that runs along each."""
    directions = np.abs(np.reshape(grid.direction, (3, 3)))
    x, y, z = (float(grid.spacing[int(row.argmax())]) for row in directions)
    return z, y, x


def _fits(image: sitk.Image, body: Preprocessing) -> bool:
    return decide(image, body).fits_window
