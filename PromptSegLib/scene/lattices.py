"""Voxels from one lattice to another, in any thread (numpy and SimpleITK, no VTK).

A lattice is the endless grid of a (4, 4) matrix from indices (i, j, k, 1) to points. Arrays are
(k, j, i) and come with the index (i, j, k) of their first voxel.
"""

from __future__ import annotations

from typing import Any, Iterable, Optional

import numpy as np
import SimpleITK as sitk

from ..imaging.geometry import nonzero_extent

# Voxels; what file formats and transforms round away is less.
_SAME = 0.01


def on_lattice(
    voxels: np.ndarray,
    start: np.ndarray,
    to_lattice: np.ndarray,
    within: Optional[tuple[np.ndarray, np.ndarray]] = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Integer voxels and the index of the first one, on another lattice.

    The same numbers (a view) when every voxel falls on a voxel, as on all that is painted on one
    volume; otherwise the nearest, and 0 where there is none.

    :param to_lattice: (4, 4), indices of ``voxels``' lattice to (continuous) indices of the other.
    :param within: first index and last index + 1, (i, j, k) on the other lattice; what lies beyond is left out.
    """
    first = np.asarray(start, int)
    last = first + voxels.shape[::-1] - 1
    # Two voxels along each axis, also of a single slice: one alone does not show how far apart they are.
    ends = np.stack([first, np.maximum(last, first + 1)], axis=1)
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3)
    moved = corners @ to_lattice[:3, :3].T + to_lattice[:3, 3]
    shift = np.round(moved[0] - corners[0]).astype(int)
    if np.abs(moved - corners - shift).max() < _SAME:
        low, high = first + shift, first + shift + voxels.shape[::-1]
        if within is not None:
            low, high = np.clip(low, *within), np.clip(high, *within)
        return voxels[window(low - first - shift, high - low)], low
    outer = np.stack(np.meshgrid(*np.stack([first - 0.5, last + 0.5], axis=1), indexing="ij"), -1).reshape(-1, 3)
    halves = outer @ to_lattice[:3, :3].T + to_lattice[:3, 3]
    low, high = np.floor(halves.min(0)).astype(int), np.ceil(halves.max(0)).astype(int) + 1
    if within is not None:
        low, high = np.clip(low, *within), np.clip(high, *within)
    size = high - low
    if not size.all():
        return np.zeros(size[::-1], voxels.dtype), low
    # Both images lie in index space, where any lattice is a plain grid and the lattices differ by an affine map.
    image = sitk.GetImageFromArray(voxels)
    image.SetOrigin(first.astype(float).tolist())
    back = np.linalg.inv(to_lattice)
    filter_ = sitk.ResampleImageFilter()
    filter_.SetSize(size.tolist())
    filter_.SetOutputOrigin(low.astype(float).tolist())
    filter_.SetTransform(sitk.AffineTransform(back[:3, :3].ravel().tolist(), back[:3, 3].tolist()))
    filter_.SetInterpolator(sitk.sitkNearestNeighbor)
    return sitk.GetArrayFromImage(filter_.Execute(image)), low


def window(low: Iterable[int], size: Iterable[int]) -> tuple[Any, ...]:
    """The part of an array (k, j, i) that begins at index ``low`` (i, j, k) and is ``size`` voxels large."""
    i, j, k = (slice(int(at), int(at) + int(extent)) for at, extent in zip(low, size))
    return k, j, i


def cropped(image: sitk.Image) -> sitk.Image:
    """A label image without its borders of zeros, in the same place; of one without any label, a single voxel."""
    extent = nonzero_extent(sitk.GetArrayViewFromImage(image)) or (0,) * 6
    i, i_end, j, j_end, k, k_end = extent
    return image[i : i_end + 1, j : j_end + 1, k : k_end + 1]
