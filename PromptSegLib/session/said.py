"""What the user said about the voxels of a result, as its clean-up needs it."""

from __future__ import annotations

from typing import Optional

import numpy as np

from ..imaging.geometry import Grid
from ..inference.result import Segmentation
from . import requests
from .codes import UNKNOWN, is_class, is_not_class
from .running import Run


def said(run: Run, result: Segmentation) -> tuple[Optional[np.ndarray], Optional[dict[int, np.ndarray]]]:
    """What was painted, as label values (z, y, x) on the result's grid; and for each value where it must not be."""
    if run.known is None:
        return None, None
    codes = requests.on_grid(run.known.codes, Grid.of(result.labels))
    painted, never = np.zeros(codes.shape, np.uint16), {}
    for info in result.classes:
        number = run.numbers.get(info.name)
        if number is None:
            continue
        painted[codes == is_class(number)] = info.value
        # Background, another class, or erased; what was erased from another class says nothing about this one.
        other = (codes != UNKNOWN) & (codes != is_class(number)) & ((codes < 3) | (codes % 2 == 0))
        never[info.value] = other | (codes == is_not_class(number))
    return painted, never
