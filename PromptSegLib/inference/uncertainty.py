"""Where a look, or a stroke, is worth most: slices on which the network is unsure and nothing is annotated yet."""

from __future__ import annotations

from typing import Optional, Sequence

import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt, gaussian_filter1d
from scipy.ndimage import label as numbered_parts

from ..imaging.geometry import Grid
from .class_margins import Probabilities

PLACES = 5
_NEAR = 10.0  # mm from an annotated voxel within which a look adds little
_APART = 15.0  # mm between two suggested slices
_AIR = -0.93  # normalized intensity up to which a voxel is no body: below fat on CT, above the noise of most MR
_PIECE = 0.1  # of the largest piece of the body, from which another one is not the table


def entropy(shares: Probabilities) -> np.ndarray:
    """Normalized entropy of the class probabilities in [0, 1], float32 (z, y, x)."""
    unsure: np.ndarray = np.zeros(shares[0].shape, np.float32)
    for index in range(len(shares)):
        share = shares[index]
        unsure -= share * np.log(np.clip(share, 1e-7, 1)) / np.log(len(shares))
    return unsure


def body_of(array: np.ndarray) -> np.ndarray:
    """Where a body is, bool (z, y, x), with the air inside of it; everywhere, where there is no air around one.

    :param array: (z, y, x) normalized to [-1, 1], on an upright grid.
    """
    parts, count = numbered_parts(array > _AIR)
    if not count:
        return np.ones(array.shape, bool)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    body: np.ndarray = (sizes >= _PIECE * sizes.max())[parts]
    for plane in body:
        plane[:] = binary_fill_holes(plane)
    return body


def classes_at(
    shares: Probabilities, points: Sequence[Sequence[float]], grid: Grid, names: Sequence[str]
) -> tuple[str, ...]:
    """The class that is most likely at each world point (LPS mm) on ``grid``, background aside."""
    found = []
    for x, y, z in grid.indices(np.asarray(points, float).reshape(-1, 3)).round().astype(int).tolist():
        at = [float(shares[row][z, y, x]) for row in range(1, 1 + len(names))]
        found.append(names[int(np.argmax(at))])
    return tuple(found)


def places_to_look(
    unsure: np.ndarray, annotated: np.ndarray, grid: Grid, body: Optional[np.ndarray] = None
) -> list[tuple[float, float, float]]:
    """World points (LPS mm), the most rewarding axial slice first: where the slice is most unsure.

    :param unsure: (z, y, x) in [0, 1] on ``grid``, a model's upright grid.
    :param annotated: bool (z, y, x); what lies near it, the user has seen.
    :param body: bool (z, y, x); elsewhere is nothing to look at.
    """
    unsure = np.where(unsure > 0.1, unsure, 0).astype(np.float32)
    if body is not None:
        unsure *= body
    if annotated.any():
        far = distance_transform_edt(~annotated, sampling=grid.spacing[::-1])
        unsure *= 1 - np.exp(-((far / _NEAR) ** 2) / 2)
    # Over neighboring slices, so that one noisy slice does not win.
    total = gaussian_filter1d(unsure.sum((1, 2), dtype=np.float64), 4.0 / grid.spacing[2])
    gap = max(1, round(_APART / grid.spacing[2]))
    found: list[tuple[float, float, float]] = []
    while len(found) < PLACES and total.max() > 0:
        z = int(total.argmax())
        rows, columns = unsure[z].sum(1), unsure[z].sum(0)
        if rows.sum() > 0:
            y = float(rows @ np.arange(len(rows)) / rows.sum())
            x = float(columns @ np.arange(len(columns)) / columns.sum())
            # The center of gravity may fall between two doubtful spots: take the worst voxel near it.
            y, x = _nearest_worst(unsure[z], y, x)
            point = grid.points(np.array([[x, y, z]]))[0]
            found.append((float(point[0]), float(point[1]), float(point[2])))
        total[max(z - gap, 0) : z + gap + 1] = 0
    return found


def _nearest_worst(plane: np.ndarray, y: float, x: float) -> tuple[float, float]:
    rows, columns = np.nonzero(plane >= 0.9 * plane.max())
    nearest = int(np.hypot(rows - y, columns - x).argmin())
    return float(rows[nearest]), float(columns[nearest])
