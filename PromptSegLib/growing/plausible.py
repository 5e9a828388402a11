"""What a correction is a reason for: a class gains where it was painted, and loses where it was denied.

Who paints what is missing paints along its middle. So what is missing reaches about as far beyond the stroke as the
stroke is away from what is there already. An answer that adds more has moved the border for another reason. What is
erased is often the end of a leak, so a loss may reach further; but a thin layer of what remains is no leak.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.ndimage import label as numbered_parts
from scipy.spatial import cKDTree

# Chosen on inputs of 78 corrections, of three development cases and a phantom (docs/growing.md#while-painting): the
# mean change is +.012, the worst -.007; without this, 9 of them lost more than .01, at worst .79, and the mean was
# -.009. With 1.0 and 1.0 the worst was -.014.
BEYOND = 0.5  # times the distance of a stroke to what is there (and, erased, to what is not): so far a class may change
MORE = 1.0  # times the exactness of growing, beyond that
RIM = 1.9  # times the exactness of growing: how thin a layer is that no erasure away from it takes off
MOST = 0.5  # of a class: who erases a leak leaves the organ; what loses more has never been grown from the strokes
_SLACK = 1e-6  # of a distance: bounds are exclusive
_TOUCHING = np.ones((3, 3, 3), bool)


def is_plausible(
    changed: np.ndarray,
    accepted: np.ndarray,
    grown: np.ndarray,
    painted: np.ndarray,
    touched: np.ndarray,
    spacing: Sequence[float],
    exact: float,
) -> np.ndarray:
    """Which changes of labels have a reason, bool (z, y, x).

    :param changed: bool, the changes that are asked about.
    :param accepted: labels before; ``grown``: labels as they would be; ``painted``: what is painted.
    :param touched: bool, where what is painted is not what was accepted.
    :param spacing: mm (z, y, x).
    :param exact: mm by which growing is exact.
    """
    plausible = np.zeros(accepted.shape, bool)
    for value in np.unique(painted[touched & (painted > 0)]).tolist():
        there, gained = accepted == value, changed & (grown == value)
        plausible |= _within(gained & ~there, there, touched & (painted == value), spacing, exact)
    for value in np.unique(accepted[touched & (accepted > 0)]).tolist():
        there = accepted == value
        lost = changed & there & (grown != value)
        plausible |= _within(lost, ~there, touched & there, spacing, exact)
        leak = lost & ~_rim(lost, there & (grown == value), spacing, RIM * exact)
        if np.count_nonzero(leak) <= MOST * np.count_nonzero(there):
            plausible |= leak
    return plausible


def _rim(lost: np.ndarray, left: np.ndarray, spacing: Sequence[float], thickness: float) -> np.ndarray:
    """Which of the lost voxels of a class lie on what is left of it, and no further than ``thickness`` (mm)."""
    where, border = np.argwhere(lost), np.argwhere(left & ~binary_erosion(left, _TOUCHING))
    found = np.zeros(lost.shape, bool)
    if len(where) and len(border):
        tree = cKDTree(border * np.asarray(spacing))
        near = np.isfinite(tree.query(where * np.asarray(spacing), distance_upper_bound=thickness * (1 + _SLACK))[0])
        found[tuple(where[near].T)] = True
    return found


def _within(
    asked: np.ndarray, there: np.ndarray, strokes: np.ndarray, spacing: Sequence[float], exact: float
) -> np.ndarray:
    """Which voxels are near enough to a stroke, as measured by how far that is from what is there."""
    where, border = np.argwhere(asked), np.argwhere(there & ~binary_erosion(there, _TOUCHING))
    if not len(border) or not len(where):  # nothing is there yet: no measure of how far it may reach
        return asked
    places, tree = where * np.asarray(spacing), cKDTree(border * np.asarray(spacing))
    near = np.zeros(len(where), bool)
    parts, count = numbered_parts(strokes, _TOUCHING)
    for number in range(1, count + 1):
        stroke = np.argwhere(parts == number) * np.asarray(spacing)
        far = float(tree.query(stroke)[0].max())
        most = max(BEYOND, 1.0) * far + MORE * exact
        beside = cKDTree(stroke).query(places, distance_upper_bound=most * (1 + _SLACK))[0]
        near |= beside <= BEYOND * far + MORE * exact
        between = np.flatnonzero(np.isfinite(beside) & ~near)  # of the stroke and what is there
        away = tree.query(places[between])[0] if len(between) else np.zeros(0)
        near[between[beside[between] + away <= far + MORE * exact]] = True
    found = np.zeros(asked.shape, bool)
    found[tuple(where[near].T)] = True
    return found
