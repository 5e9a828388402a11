"""What an image must be before anything is computed on it.

Every refusal is a :class:`PromptSegError` with one sentence: what is wrong, and what to do.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np
import SimpleITK as sitk

from ..errors import PromptSegError
from .geometry import PERPENDICULAR, Grid, skew

# Sides in mm: a body is not larger than this in any direction, nor in two of them, and two sides of an image of
# anything are not smaller. What lies beyond is a wrong unit: micrometres or metres that are taken for millimetres.
_LONGEST, _WIDEST, _NARROWEST = 12_000, 1_200, 1
_MOST_UNEQUAL = 250  # the longest by the shortest edge of a voxel
_HIGHEST = 1e30  # intensities are computed with, and squared, in single precision
_COMPLEX = (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)
_INTEGER = (
    sitk.sitkUInt8,
    sitk.sitkInt8,
    sitk.sitkUInt16,
    sitk.sitkInt16,
    sitk.sitkUInt32,
    sitk.sitkInt32,
    sitk.sitkUInt64,
    sitk.sitkInt64,
)
_LARGEST, _SMALLEST = 1e30, 1e-30  # of intensities, and of their spread


def is_integer(pixel_id: int) -> bool:
    """Whether a SimpleITK pixel type is a scalar integer."""
    return pixel_id in _INTEGER


def check_kind(
    name: str, size: Sequence[int], components: int = 1, pixel_id: int = sitk.sitkInt16, thin: bool = False
) -> None:
    """Refuse what is not a scalar 3D volume. ``size`` in (x, y, z) voxels; ``thin``: a single slice will do."""
    if any(extent == 0 for extent in size):
        raise PromptSegError("{name} has no voxels; export it again.", name=name)
    if len(size) > 3:
        raise PromptSegError(
            "{name} has {count} dimensions (a time series or several volumes in one file); save the 3D "
            "volume you want to use as a file of its own.",
            name=name,
            count=len(size),
        )
    if pixel_id in _COMPLEX:
        raise PromptSegError("{name} has complex values; save its magnitude as a scalar volume.", name=name)
    if components > 1:
        raise PromptSegError(
            "{name} has {components} values per voxel (color or vectors), not one; convert it to a scalar volume.",
            name=name,
            components=components,
        )
    if len(size) < 3 or (min(size) < 2 and not thin):
        raise PromptSegError(
            "{name} is a single slice, not a 3D volume; load the whole series as one volume.", name=name
        )


def check_grid(name: str, grid: Grid) -> None:
    """Refuse a grid whose voxels have no definite place in the patient (spacing, origin, direction)."""
    advice = "convert the original series again (in Slicer: load the DICOM series and save it as .nrrd)"
    if not all(np.isfinite(step) and step > 0 for step in grid.spacing):
        steps = ", ".join(f"{step:g}" for step in grid.spacing)
        raise PromptSegError(
            "{name} has a voxel spacing of ({steps}) mm, which must be positive; {advice}.",
            name=name,
            steps=steps,
            advice=advice,
        )
    if not np.all(np.isfinite(grid.origin)):
        raise PromptSegError("{name} has no valid origin; {advice}.", name=name, advice=advice)
    # Written so that NaN is refused too.
    if not skew(np.reshape(grid.direction, (3, 3))) < PERPENDICULAR:
        raise PromptSegError(
            "{name} has axes that are not perpendicular (a tilted gantry, or damaged orientation "
            "information); resample it to a rectangular grid (in Slicer: harden its transform, or use "
            "a Resample Image module).",
            name=name,
        )


def check_image(image: sitk.Image, name: str) -> None:
    """Refuse an image that no model can work on.

    That is: not 3D or a single slice, several values per voxel, no voxels, a spacing that is not positive or in another
    unit than mm, axes that are not perpendicular, NaN or infinite intensities or some beyond what is computed with,
    the same intensity everywhere.
    Reads the voxels twice and copies nothing.
    """
    check_kind(name, image.GetSize(), image.GetNumberOfComponentsPerPixel(), image.GetPixelID())
    check_grid(name, Grid.of(image))
    check_size(name, Grid.of(image))
    voxels = sitk.GetArrayViewFromImage(image)
    low, high = voxels.min(), voxels.max()  # NaN if there is one anywhere
    if not (np.isfinite(low) and np.isfinite(high)):
        raise PromptSegError(
            "{name} has voxels that are NaN or infinite; replace them, for example with the lowest value.", name=name
        )
    if max(abs(float(low)), abs(float(high))) > _HIGHEST:
        raise PromptSegError(
            "{name} has values from {low:.3g} to {high:.3g}, which are no intensities; replace those "
            "that mark what was not measured, for example with the lowest value.",
            name=name,
            low=low,
            high=high,
        )
    if np.float32(low) == np.float32(high):
        raise PromptSegError(
            "All voxels of {name} have the same intensity ({low:g}); check that it is the right volume.",
            name=name,
            low=low,
        )
    low, high = float(low), float(high)
    # Networks compute with single precision: what is lost in it, nobody can segment.
    if max(abs(low), abs(high)) > _LARGEST or not high - low > max(_SMALLEST, 1e-5 * max(abs(low), abs(high))):
        raise PromptSegError(
            "{name} has intensities from {low:g} to {high:g}, which single precision cannot tell "
            "apart; check that the file is not damaged, or rescale it.",
            name=name,
            low=low,
            high=high,
        )


def check_size(name: str, grid: Grid) -> None:
    """Refuse a grid that no patient or specimen fills, because its spacing is in another unit than mm."""
    _, middle, longest = sorted(_sides(grid))
    voxel = f"with voxels of {_by(grid.spacing)} mm"
    if longest > _LONGEST or middle > _WIDEST:
        raise PromptSegError(
            "{name} measures {by} mm, {voxel}; check the voxel spacing, which seems to be in another "
            "unit (micrometres for millimetres?).",
            name=name,
            by=_by(_sides(grid)),
            voxel=voxel,
        )
    if middle < _NARROWEST:
        raise PromptSegError(
            "{name} measures only {by} mm, {voxel}; check the voxel spacing, which seems to be in "
            "another unit (metres for millimetres?).",
            name=name,
            by=_by(_sides(grid)),
            voxel=voxel,
        )
    if max(grid.spacing) > _MOST_UNEQUAL * min(grid.spacing):
        raise PromptSegError(
            "{name} has voxels of {by} mm; check the voxel spacing along each axis.", name=name, by=_by(grid.spacing)
        )


def check_extent(image: Grid, spacing: Sequence[float], name: str) -> None:
    """Refuse an image of less than two voxels on a model's grid of ``spacing`` (z, y, x) mm."""
    if max(side / step for side, step in zip(_sides(image), spacing[::-1])) < 2:
        raise PromptSegError(
            "{name} measures only {by} mm, and a voxel of the model {voxel} mm; check the voxel spacing "
            "of the image, or, for a specimen as small as this, give it ten times its spacing.",
            name=name,
            by=_by(_sides(image)),
            voxel=_by(spacing[::-1]),
        )


def _sides(grid: Grid) -> list[float]:
    return [size * step for size, step in zip(grid.size, grid.spacing)]


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{each:.4g}" for each in values)
