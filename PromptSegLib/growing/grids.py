"""On which grid growing works: chosen from the image and from what was painted, never from a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np
import SimpleITK as sitk

from ..annotation.labels import UNKNOWN
from ..imaging.geometry import Box, Grid, bounding_box, to_model_grid

_SAME = 1.15  # native voxels that would become less than this much larger stay as they are
_MARGIN = 0.25  # of the painted extent, on either side
_ROUND = 0.35  # of the largest painted extent: a structure painted on one slice is about as thick as it is wide
_LEAST = 5  # voxels


@dataclass(frozen=True)
class WorkingGrid:
    """A part of the native grid, at its own voxels or coarser ones along the same axes.

    :param box: of native voxels, (z, y, x).
    :param shape: voxels (z, y, x) that the box is divided into.
    """

    native: Grid
    box: Box
    shape: tuple[int, int, int]

    @property
    def steps(self) -> tuple[float, float, float]:
        """Native voxels per voxel, (z, y, x)."""
        z, y, x = ((side.stop - side.start) / extent for side, extent in zip(self.box, self.shape))
        return z, y, x

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm (z, y, x)."""
        z, y, x = (step * each for step, each in zip(self.native.spacing[::-1], self.steps))
        return z, y, x

    @property
    def grid(self) -> Grid:
        first = [side.start + step / 2 - 0.5 for side, step in zip(self.box, self.steps)]
        x, y, z = self.native.points(np.asarray([first[::-1]]))[0].tolist()
        a, b, c = self.spacing[::-1]
        return Grid(self.shape[::-1], (a, b, c), (x, y, z), self.native.direction)

    def image(self, image: sitk.Image) -> np.ndarray:
        """Intensities float32 (z, y, x)."""
        if self.shape == tuple(side.stop - side.start for side in self.box):
            z, y, x = self.box
            return sitk.GetArrayFromImage(sitk.Cast(image[x, y, z], sitk.sitkFloat32))
        return to_model_grid(image, self.grid, float(sitk.GetArrayViewFromImage(image)[self.box].min()))

    def strokes(self, painted: np.ndarray) -> np.ndarray:
        """What was painted, int16 (z, y, x) labels as in ``annotation.labels``; a rare class is never lost.

        :param painted: on the native grid.
        """
        part = painted[self.box]
        if part.shape == self.shape:
            return part.astype(np.int16)
        result = np.full(self.shape, UNKNOWN, np.int16)
        places = np.nonzero(part != UNKNOWN)
        labels = part[places]
        cells = tuple(
            np.minimum(((at + 0.5) / step).astype(int), extent - 1)
            for at, step, extent in zip(places, self.steps, self.shape)
        )
        values, counts = np.unique(labels, return_counts=True)
        # Background first, then what was erased, then classes, the rarest last.
        order = sorted(zip(values.tolist(), counts.tolist()), key=lambda each: (each[0] > 0, each[0] < 0, -each[1]))
        for value, _ in order:
            chosen = labels == value
            result[tuple(axis[chosen] for axis in cells)] = value
        return result

    def within(self, mask: np.ndarray, margin: float, least: int = _LEAST) -> Optional[Box]:
        """Native box around a mask on this grid, wider by a share of its extent; None for an empty mask."""
        inner = bounding_box(mask)
        if inner is None:
            return None
        box = []
        for side, outer, step, extent in zip(inner, self.box, self.steps, self.native.shape):
            more = max(margin * (side.stop - side.start), least) * step
            low, high = outer.start + side.start * step - more, outer.start + side.stop * step + more
            box.append(slice(max(int(np.floor(low)), 0), min(int(np.ceil(high)), extent)))
        return box[0], box[1], box[2]


def working_grid(native: Grid, box: Box, most: int) -> WorkingGrid:
    """The finest grid of about ``most`` voxels at most in a box (z, y, x) of native voxels; coarse axes stay."""
    extents = np.array([side.stop - side.start for side in box])
    own = np.asarray(native.spacing[::-1])
    low, high = float(own.min()), float(max((extents * own).max(), own.max()))

    def shape(step: float) -> np.ndarray:
        alike = own * _SAME > step
        return np.where(alike, extents, np.maximum(np.round(extents * own / step), 1)).astype(int)

    if np.prod(extents, dtype=float) > most:
        for _ in range(40):
            middle = float(np.sqrt(low * high))
            if np.prod(shape(middle), dtype=float) > most:
                low = middle
            else:
                high = middle
        z, y, x = (int(extent) for extent in shape(high))
    else:
        z, y, x = (int(extent) for extent in extents)
    return WorkingGrid(native, box, (z, y, x))


def domain(native: Grid, painted: np.ndarray) -> Optional[Box]:
    """The native box (z, y, x) in which growing takes place; None where no class is painted.

    :param painted: int16 (z, y, x) on the native grid.
    """
    inner = bounding_box(painted > 0)
    if inner is None:
        return None
    every = bounding_box(painted != UNKNOWN)
    assert every is not None
    spacing = np.asarray(native.spacing[::-1])
    size = np.array([side.stop - side.start for side in inner])
    thick = _ROUND * float((size * spacing).max()) / spacing
    low = np.array([side.start for side in inner]) - np.maximum(np.maximum(_MARGIN * size, thick), _LEAST)
    high = np.array([side.stop for side in inner]) + np.maximum(np.maximum(_MARGIN * size, thick), _LEAST)
    low = np.minimum(low, [side.start - 2 for side in every])
    high = np.maximum(high, [side.stop + 2 for side in every])
    z, y, x = (slice(max(int(a), 0), min(int(np.ceil(b)), n)) for a, b, n in zip(low, high, native.shape))
    return z, y, x
