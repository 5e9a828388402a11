"""An image as a model sees it: upright, at the model's spacing, normalised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from .geometry import Grid, to_model_grid, upright_grid
from .preprocessing import Preprocessing


@dataclass(frozen=True)
class Volume:
    """``array`` (z, y, x) float32 in [-1, 1] on ``grid``; ``native`` is the image's own grid."""

    array: np.ndarray
    grid: Grid
    native: Grid

    @classmethod
    def of(cls, image: sitk.Image, preprocessing: Preprocessing) -> Volume:
        """Resample through physical space; what lies outside the image takes its lowest admitted intensity."""
        native = Grid.of(image)
        grid = upright_grid(native, preprocessing.spacing)
        fill = float(preprocessing.intensity[0])
        if preprocessing.rule != "window":
            fill = float(sitk.GetArrayViewFromImage(image).min())
        return cls(preprocessing.normalize(to_model_grid(image, grid, fill)), grid, native)
