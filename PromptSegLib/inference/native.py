"""From a model's grid back to the image's own grid, slab by slab."""

from __future__ import annotations

from typing import Callable, Iterator, Optional

import numpy as np
import SimpleITK as sitk

from ..examples.geometry import Grid, resample

_SLAB_VOXELS = 4_000_000


def native_slabs(values: np.ndarray, grid: Grid, native: Grid) -> Iterator[tuple[slice, np.ndarray]]:
    """Values (classes, z, y, x) on ``grid``, interpolated linearly on ``native``.

    Yields (z range of the native array, (classes, slab, y, x) float32). Only the part of
    ``values`` that a slab needs is converted, so memory does not grow with the volume.
    """
    depth, height, width = native.shape
    deep = max(1, _SLAB_VOXELS // (height * width * max(1, len(values))))
    for start in range(0, depth, deep):
        stop = min(start + deep, depth)
        slab = Grid(
            (width, height, stop - start),
            native.spacing,
            tuple(native.points(np.array([[0, 0, start]]))[0].tolist()),
            native.direction,
        )
        corner = grid.indices(slab.corners())
        low = np.floor(corner.min(0)).astype(int) - 1
        high = np.ceil(corner.max(0)).astype(int) + 2
        # Indices are clipped, which repeats the border: the outermost voxels of the image may lie
        # up to half a model voxel outside the model's grid.
        picks = [np.clip(np.arange(a, b), 0, n - 1) for a, b, n in zip(low, high, grid.size)][::-1]
        origin = tuple(grid.points(low[None].astype(float))[0].tolist())
        size = tuple(int(n) for n in high - low)
        crop_grid = Grid(size, grid.spacing, origin, grid.direction)
        out = np.empty((len(values), *slab.shape), np.float32)
        for index, value in enumerate(values):
            crop = crop_grid.image(value[np.ix_(*picks)].astype(np.float32))
            # A copy: a view would outlive the image it looks into.
            out[index] = sitk.GetArrayFromImage(resample(crop, slab, sitk.sitkLinear, -1e4))
        yield slice(start, stop), out


def winner(slab: np.ndarray) -> np.ndarray:
    """(classes, ...) scores -> index of the best class from 1, or 0 where none is positive."""
    best = slab.argmax(0)
    return np.where(slab.max(0) > 0, best + 1, 0)


def labels_on_native(
    values: np.ndarray,
    grid: Grid,
    native: Grid,
    lookup: np.ndarray,
    on_slab: Optional[Callable[[slice], None]] = None,
) -> np.ndarray:
    """Label values (z, y, x) on the native grid; ``lookup[k]`` is the value of the k-th class, ``lookup[0]`` 0."""
    labels = np.zeros(native.shape, lookup.dtype)
    for where, slab in native_slabs(values, grid, native):
        labels[where] = lookup[winner(slab)]
        if on_slab:
            on_slab(where)
    return labels
