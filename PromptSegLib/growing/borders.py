"""Which of two regions has the border that the image supports: strokes say little about borders, edges do.

A border costs what it does in graph cuts (Boykov and Jolly, "Interactive graph cuts for optimal boundary and region
segmentation of objects in N-D images", ICCV 2001): its area, less where intensity changes across it by more than is
usual. So one that is ragged costs more, as does a smooth one that passes by the edges.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np

from ..imaging.geometry import bounding_box
from .inputs import Ground

# Of what the border of learned growing costs: below, plain growing's is the image's; above, it is ragged or leaks, and
# what a few hidden voxels say for it is chance. Chosen on development sets (docs/growing.md).
CLEARLY_BETTER, CLEARLY_WORSE = 0.4, 1.5
_AROUND = 4  # voxels around both regions, in which changes of intensity are usual ones


def border_of_plain(ground: Ground, index: int, learned: np.ndarray) -> float:
    """What the border of a class's plainly grown region costs, of what that of a learned one (bool (z, y, x)) does.

    1 where either is empty, or has no border inside the ground.
    """
    plain = ground.grown == index
    box = bounding_box(plain | learned)
    if box is None or not plain.any() or not learned.any():
        return 1.0
    around = tuple(slice(max(side.start - _AROUND, 0), side.stop + _AROUND) for side in box)
    low, high = ground.limits
    # Of the range, so that squares have room in single precision, whatever the unit.
    array = np.clip(ground.array[around], low, high) / max(float(high) - float(low), np.finfo(np.float32).tiny)
    changes = [np.diff(array, axis=axis) ** 2 for axis in range(3)]
    usual = float(np.mean([change.mean() if change.size else 0.0 for change in changes])) or 1.0
    one, other = (border_cost(region[around], changes, usual, ground.spacing) for region in (plain, learned))
    return one / other if other > 0 else 1.0


def border_cost(region: np.ndarray, changes: Sequence[np.ndarray], usual: float, spacing: Sequence[float]) -> float:
    """Area (mm2) of a region's border, less where intensity changes across it.

    :param region: bool (z, y, x).
    :param changes: squared changes of intensity between neighbors along each axis.
    :param usual: their mean, from which what is no edge is told.
    :param spacing: mm (z, y, x).
    """
    total = 0.0
    for axis, change in enumerate(changes):
        crossed = np.diff(region, axis=axis)
        total += float(np.exp(change[crossed] / (-2 * usual)).sum()) * float(np.prod(spacing)) / spacing[axis]
    return total
