"""What a preview shows of a result: cleaned up but for what was painted, and how it differs from the one before."""

from __future__ import annotations

from dataclasses import replace
from typing import Mapping, Optional

import numpy as np
import SimpleITK as sitk

from ..annotation.classes import ClassInfo
from ..annotation.partial_labels import BLANK, PartialLabels, is_class, is_not_class, on_grid
from ..imaging.geometry import Grid, resample
from ..inference.result import Segmentation

ADDED, REMOVED = "added, not corrected by you", "removed, not corrected by you"
_COLORS = {ADDED: (0.0, 0.62, 0.45), REMOVED: (0.84, 0.37, 0.0)}  # told apart by color-blind readers


def with_differences(result: Segmentation, before: sitk.Image) -> Segmentation:
    """A result in which the voxels that are no longer as before are classes of their own, for the eye only.

    :param before: labels of the same values; 0 outside of it.
    """
    grid = Grid.of(result.labels)
    values = [info.value for info in result.classes]
    now = sitk.GetArrayFromImage(result.labels).astype(np.uint16)
    then = sitk.GetArrayFromImage(resample(before, grid, sitk.sitkNearestNeighbor, 0))
    now[~np.isin(now, values)] = 0
    then = np.where(np.isin(then, values), then, 0)
    free = (value for value in range(1, 65536) if value not in values)
    added, removed = next(free), next(free)
    differs = now != then
    now[differs & (now > 0)] = added
    now[differs & (now == 0)] = removed
    shown = (ClassInfo(ADDED, added, _COLORS[ADDED]), ClassInfo(REMOVED, removed, _COLORS[REMOVED]))
    return replace(result, labels=grid.image(now), classes=(*result.classes, *shown))


def stroke_constraints(
    known: Optional[PartialLabels], numbers: Mapping[str, int], result: Segmentation
) -> tuple[Optional[np.ndarray], Optional[dict[int, np.ndarray]]]:
    """What was painted, as label values (z, y, x) on the result's grid; and for each value where it must not be.

    :param known: what the user said; None where nothing was painted.
    :param numbers: class name -> the number of the class in the segmentation.
    """
    if known is None:
        return None, None
    grid = Grid.of(result.labels)
    codes = on_grid(known.codes, grid)
    painted, never = np.zeros(codes.shape, np.uint16), {}
    for info in result.classes:
        number = numbers.get(info.name)
        if number is None:
            continue
        painted[codes == is_class(number)] = info.value
        # Background, another class, or erased; what was erased from another class says nothing about this one.
        other = (codes != BLANK) & (codes != is_class(number)) & ((codes < 3) | (codes % 2 == 0))
        never[info.value] = other | (codes == is_not_class(number))
    return painted, never
