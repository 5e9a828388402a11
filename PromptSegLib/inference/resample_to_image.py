"""From a model's grid back to the image's own grid, slab by slab."""

from __future__ import annotations

from typing import Callable, Iterator, Optional, Sequence

import numpy as np
import SimpleITK as sitk

from ..imaging.geometry import Grid, bounding_box, resample

_SLAB_VOXELS = 4_000_000


def native_slabs(values: np.ndarray, grid: Grid, native: Grid) -> Iterator[tuple[slice, np.ndarray]]:
    """Values (classes, z, y, x) on ``grid``, interpolated linearly on ``native``.

    Yields (z range of the native array, (classes, slab, y, x) float32), so that memory does
    not grow with the volume.
    """
    for start, stop in _ranges(native, len(values)):
        slab = native.part((0, 0, start), (*native.size[:2], stop))
        yield slice(start, stop), np.stack([interpolated(value, grid, slab) for value in values])


def labels_on_native(
    fields: Sequence[tuple[np.ndarray, Grid]],
    native: Grid,
    lookup: np.ndarray,
    on_slab: Optional[Callable[[slice], None]] = None,
) -> np.ndarray:
    """Label values (z, y, x) on the native grid: ``lookup[k]`` where the k-th class has the highest positive value.

    ``lookup[0]`` is background. Each class has its own values (z, y, x) on its own grid, and is interpolated only in
    the box where they are positive somewhere: organs are small, and a large CT has far more voxels than a model's grid.
    """
    labels = np.full(native.shape, lookup[0], lookup.dtype)
    boxes = [_positive_box(value, grid, native) for value, grid in fields]
    for start, stop in _ranges(native, 1):
        best = np.zeros((stop - start, *native.shape[1:]), np.float32)
        for index, ((value, grid), box) in enumerate(zip(fields, boxes), start=1):
            if box is None:
                continue
            (x0, y0, z0), (x1, y1, z1) = box
            z0, z1 = max(z0, start), min(z1, stop)
            if z0 >= z1:
                continue
            window = (slice(z0 - start, z1 - start), slice(y0, y1), slice(x0, x1))
            score = interpolated(value, grid, native.part((x0, y0, z0), (x1, y1, z1)))
            wins = score > best[window]
            best[window][wins] = score[wins]
            labels[start:stop][window][wins] = lookup[index]
        if on_slab:
            on_slab(slice(start, stop))
    return labels


def winner(scores: np.ndarray) -> np.ndarray:
    """(classes, ...) scores -> index of the best class from 1, or 0 where none is positive."""
    return np.where(scores.max(0) > 0, scores.argmax(0) + 1, 0)


def _ranges(native: Grid, classes: int) -> Iterator[tuple[int, int]]:
    depth, height, width = native.shape
    deep = max(1, _SLAB_VOXELS // (height * width * max(1, classes)))
    for start in range(0, depth, deep):
        yield start, min(start + deep, depth)


def interpolated(value: np.ndarray, grid: Grid, part: Grid) -> np.ndarray:
    """``value`` (z, y, x) on ``grid``, linearly interpolated on ``part``, float32; its border is repeated outside."""
    near = grid.indices(part.corners())
    low, high = np.floor(near.min(0)).astype(int) - 1, np.ceil(near.max(0)).astype(int) + 2
    # Indices are clipped, which repeats the border: the outermost voxels of the image may lie
    # up to half a model voxel outside the model's grid.
    picks = [np.clip(np.arange(a, b), 0, n - 1) for a, b, n in zip(low, high, grid.size)][::-1]
    crop = grid.part(low, high).image(value[np.ix_(*picks)].astype(np.float32))
    return sitk.GetArrayFromImage(resample(crop, part, sitk.sitkLinear, -1e4))


def _positive_box(value: np.ndarray, grid: Grid, native: Grid):
    """First and last native index + 1, (x, y, z) each, around the places where ``value`` can be positive; or None."""
    box = bounding_box(value > 0)
    if box is None:
        return None
    # Beyond the first and last voxel of the grid its border is repeated.
    ends = [
        (side.start - (2 if side.start == 0 else 1), side.stop + (1 if side.stop == extent else 0))
        for side, extent in zip(box[::-1], value.shape[::-1])
    ]
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3)
    index = native.indices(grid.points(corners))
    low = np.clip(np.floor(index.min(0)).astype(int), 0, native.size)
    high = np.clip(np.ceil(index.max(0)).astype(int) + 1, 0, native.size)
    return None if (low >= high).any() else (low.tolist(), high.tolist())
