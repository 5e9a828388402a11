"""Grids: where the voxels of an image lie, and the upright grid on which a model works.

Everything passes through physical space (SimpleITK, LPS millimeters). Arrays are
(z, y, x); SimpleITK sizes, spacings and points are (x, y, z).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np
import SimpleITK as sitk

_SLAB_VOXELS = 24_000_000
# Directions are stored with few digits in some files: cosines between axes, and differences of their lengths from 1,
# of less than this are rounding, everywhere in PromptSeg; beyond it, the far end of 512 voxels is off by one.
PERPENDICULAR = 2e-3
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

Box = tuple[slice, slice, slice]  # of an array (z, y, x)


@dataclass(frozen=True)
class Grid:
    """Size (voxels), spacing (mm), origin (mm, LPS) and direction cosines, all in SimpleITK's (x, y, z) order."""

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...] = IDENTITY

    @classmethod
    def of(cls, image: sitk.Image) -> Grid:
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @property
    def shape(self) -> tuple[int, int, int]:
        """Extents as an array has them, (z, y, x)."""
        x, y, z = self.size
        return z, y, x

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3): physical displacement (x, y, z mm) of one step along each index axis (x, y, z)."""
        return np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing)

    def points(self, indices: np.ndarray) -> np.ndarray:
        """Continuous indices (n, 3) in (x, y, z) order -> physical points (n, 3)."""
        return np.asarray(indices, float) @ self.matrix.T + np.asarray(self.origin)

    def indices(self, points: np.ndarray) -> np.ndarray:
        """Physical points (n, 3) -> continuous indices (n, 3) in (x, y, z) order."""
        return (np.asarray(points, float) - np.asarray(self.origin)) @ np.linalg.inv(self.matrix).T

    def image(self, array: np.ndarray) -> sitk.Image:
        """An array (z, y, x) of this grid's shape as an image."""
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image

    def part(self, low: Sequence[int], high: Sequence[int]) -> Grid:
        """The box of voxels from index ``low`` up to but without ``high``, (x, y, z), as a grid of its own."""
        size = tuple(int(b - a) for a, b in zip(low, high))
        x, y, z = self.points(np.asarray([low], float))[0].tolist()
        return Grid((size[0], size[1], size[2]), self.spacing, (x, y, z), self.direction)

    def corners(self) -> np.ndarray:
        """Physical positions (8, 3) of the outer voxel corners."""
        ends = [(-0.5, extent - 0.5) for extent in self.size]
        return self.points(np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3))

    def same_as(self, other: Grid, tolerance: float = 1e-2) -> bool:
        """Whether both grids place every voxel within ``tolerance`` voxels (along each axis) of each other.

        File formats round differently (NIfTI: 32-bit floats), which moves voxels by up to some 1e-3.
        """
        if self.size != other.size:
            return False
        gap = np.abs(self.indices(other.corners()) - self.indices(self.corners()))
        return bool(gap.max() < tolerance)


def skew(axes: np.ndarray) -> float:
    """How far the columns of a (3, 3) matrix are from perpendicular and of length 1: the largest of their cosines and
    of the differences of their squared lengths from 1; NaN where there is one."""
    return float(np.abs(axes.T @ axes - np.eye(3)).max())


def upright_grid(grid: Grid, spacing: tuple[float, float, float]) -> Grid:
    """The patient-aligned (LPS) grid of ``spacing`` (z, y, x mm) that covers ``grid``.

    A model always sees the patient upright, whatever the orientation, obliquity or
    handedness of the image.
    """
    step = np.asarray(spacing[::-1], float)
    corners = grid.corners()
    low, high = corners.min(0), corners.max(0)
    size = np.maximum(np.round((high - low) / step), 1).astype(int)
    origin = (low + high) / 2 - step * (size - 1) / 2  # centered, so that rounding is shared by both ends
    return Grid(tuple(size.tolist()), tuple(step.tolist()), tuple(origin.tolist()))


def resample(image: sitk.Image, grid: Grid, interpolator: int, fill: float) -> sitk.Image:
    """``image`` sampled at the voxel centers of ``grid``; ``fill`` outside the image."""
    filter_ = sitk.ResampleImageFilter()
    filter_.SetSize(grid.size)
    filter_.SetOutputSpacing(grid.spacing)
    filter_.SetOutputOrigin(grid.origin)
    filter_.SetOutputDirection(grid.direction)
    filter_.SetInterpolator(interpolator)
    filter_.SetDefaultPixelValue(fill)
    return filter_.Execute(image)


def to_model_grid(image: sitk.Image, grid: Grid, fill: float) -> np.ndarray:
    """Image intensities on a model's grid, float32 (z, y, x).

    Where the model's grid is coarser than the image, the image is smoothed first (Gaussian,
    sigma half the missing resolution), so that thin noise does not alias. Works in slabs,
    so that no floating-point copy of a large image is made.
    """
    source = Grid.of(image)
    # Step of the model's grid along the image's own axes; in quadrature, so that turning an image
    # does not change how much an isotropic model grid smooths it.
    turn = np.linalg.inv(np.reshape(grid.direction, (3, 3))) @ np.reshape(source.direction, (3, 3))
    step = np.sqrt((turn**2).T @ np.asarray(grid.spacing) ** 2)
    own = np.asarray(source.spacing)
    sigma = 0.5 * np.sqrt(np.maximum(step**2 - own**2, 0.0))
    sigma[sigma <= 0.35 * own] = 0.0
    margin = np.ceil(4 * sigma / own).astype(int) + 2
    count = max(1, round(np.prod(source.size, dtype=float) / _SLAB_VOXELS))
    depth = grid.size[2]
    edges = np.unique(np.linspace(0, depth, min(count, depth) + 1).astype(int))
    array = np.full(grid.shape, fill, np.float32)
    for start, stop in zip(edges, edges[1:]):
        slab = grid.part((0, 0, start), (grid.size[0], grid.size[1], stop))
        near = source.indices(slab.corners())
        low = np.clip(np.floor(near.min(0)).astype(int) - margin, 0, source.size)
        high = np.clip(np.ceil(near.max(0)).astype(int) + margin + 1, 0, source.size)
        if (low >= high).any():
            continue
        x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high))
        part = sitk.Cast(image[x, y, z], sitk.sitkFloat32)
        if sigma.any():
            part = sitk.DiscreteGaussian(part, (sigma**2).tolist(), 32, 0.02, True)
        array[start:stop] = sitk.GetArrayFromImage(resample(part, slab, sitk.sitkLinear, fill))
    return array


def bounding_box(mask: np.ndarray) -> Optional[Box]:
    """The smallest box, as slices (z, y, x), of the non-zero voxels of a mask (z, y, x); None when all are zero."""
    along_z = np.flatnonzero(mask.any(axis=(1, 2)))
    if not along_z.size:
        return None
    plane: np.ndarray = np.any(mask[along_z[0] : along_z[-1] + 1], axis=0)
    lines = (along_z, np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0)))
    z, y, x = (slice(int(line[0]), int(line[-1]) + 1) for line in lines)
    return z, y, x


def nonzero_extent(voxels: np.ndarray) -> Optional[tuple[int, int, int, int, int, int]]:
    """:func:`bounding_box` as VTK has it: first and last index along x, y and z, ends included."""
    box = bounding_box(voxels)
    if box is None:
        return None
    z, y, x = box
    return x.start, x.stop - 1, y.start, y.stop - 1, z.start, z.stop - 1


def holds_directions(numbers: Sequence[float]) -> bool:
    """Whether nine numbers can be directions at all. ITK may look for the inverse of others forever."""
    return len(numbers) == 9 and bool((np.abs(np.asarray(numbers, float)) < 1 + PERPENDICULAR).all())
