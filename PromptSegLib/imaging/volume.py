"""An image as a model sees it: upright, at the model's spacing, normalized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np
import SimpleITK as sitk

from .geometry import Grid, to_model_grid, upright_grid
from .intensity import IntensityRule, decide
from .preprocessing import Preprocessing


@dataclass(frozen=True)
class Volume:
    """``array`` (z, y, x) float32 in [-1, 1] on ``grid``; ``native`` is the image's own grid; ``rule`` says how its
    intensities became those."""

    array: np.ndarray
    grid: Grid
    native: Grid
    rule: IntensityRule

    def part(self, box: tuple[slice, ...]) -> tuple[Volume, tuple[slice, ...]]:
        """The part in ``box`` (z, y, x, of the array) with the part of the native grid around it, and that one's box.

        The native part is every voxel that a corner of the box can touch, so a little more than the box.
        """
        low, high = ([getattr(side, end) for side in box[::-1]] for end in ("start", "stop"))
        grid = self.grid.part(low, high)
        near = self.native.indices(grid.corners())
        first = np.clip(np.floor(near.min(0)).astype(int), 0, self.native.size)
        last = np.clip(np.ceil(near.max(0)).astype(int) + 1, 0, self.native.size)
        window = tuple(slice(int(a), int(b)) for a, b in zip(first[::-1], last[::-1]))
        return Volume(self.array[box], grid, self.native.part(first, last), self.rule), window

    @classmethod
    def of(cls, image: sitk.Image, preprocessing: Preprocessing, given: Optional[IntensityRule] = None) -> Volume:
        """Resample through physical space; what lies outside the image takes its lowest admitted intensity.

        :param given: the rule of the image that prompts were tuned on, see :func:`~.intensity.decide`.
        """
        native = Grid.of(image)
        grid = upright_grid(native, preprocessing.spacing)
        rule = decide(image, preprocessing, given=given)
        return cls(rule.normalize(to_model_grid(image, grid, rule.low)), grid, native, rule)
