"""What is added and what is removed, to be seen in a preview."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from ..annotation.classes import ClassInfo
from ..imaging.geometry import Grid, resample
from ..inference.result import Segmentation

ADDED, REMOVED = "added, not corrected by you", "removed, not corrected by you"
_COLORS = {ADDED: (0.0, 0.62, 0.45), REMOVED: (0.84, 0.37, 0.0)}  # told apart by colour-blind readers


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
