"""Plain growing: every voxel goes to the stroke from which the cheapest path leads to it, as in Grow from seeds.

A step to one of the 26 neighbors costs the change of intensity it crosses (Zhu et al., "An effective interactive
medical image segmentation method using fast GrowCut", MICCAI workshop on interactive medical image computing, 2014),
plus a little, so that flat regions go to the nearest stroke. Costs are whole numbers and carry the label of the
stroke in their low bits, so that a minimum of costs takes its label along. Along a line of voxels,
all cheapest paths are one running minimum; such lines and single diagonal steps are taken in turn until nothing
changes.
"""

from __future__ import annotations

import itertools
from typing import Callable, Optional

import numpy as np

STEPS = 1000  # cost of crossing the image's whole range; one step costs 1 besides
_SWEEPS = 40
_DIAGONALS = [
    offset for offset in itertools.product((-1, 0, 1), repeat=3) if offset > (0, 0, 0) and np.count_nonzero(offset) > 1
]
_LONG = 4000  # voxels along all axes together, up to which 32 bits hold every cost beside 8 bits of label


def grow_plainly(
    array: np.ndarray,
    seeds: np.ndarray,
    limits: tuple[float, float],
    settled: float = 0.0,
    check: Optional[Callable[[], None]] = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the nearest strokes, and how far they are.

    :param array: intensities (z, y, x).
    :param seeds: int (z, y, x), -1 where nothing is painted, otherwise a label from 0 to 32767.
    :param limits: intensities between which changes count; the whole range costs ``STEPS``.
    :param settled: stop when a sweep changes no more than this share of the voxels.
    :param check: called before every sweep, to raise where the caller wants to stop.
    :return: labels int16 (z, y, x), -1 where there are no seeds at all, and costs float32 in ranges of the image.
    """
    low, high = limits
    small = seeds.max(initial=0) < 256 and sum(array.shape) < _LONG
    kind, bits, far = (np.int32, 8, 1 << 30) if small else (np.int64, 16, 1 << 60)
    scaled = np.clip((array.astype(np.float32) - low) * (STEPS / max(high - low, 1e-12)), 0, STEPS).astype(kind)
    packed = np.where(seeds >= 0, seeds.astype(kind), kind(far))
    if (seeds >= 0).any():
        _relax(packed, scaled, bits, settled, check)
    labels = np.where(packed < far, packed & ((1 << bits) - 1), -1).astype(np.int16)
    return labels, (packed >> bits).astype(np.float32) / np.float32(STEPS)


def _running_cost(scaled: np.ndarray, axis: int, bits: int) -> np.ndarray:
    """Cost of walking from the first voxel of a line along ``axis`` to each of its voxels, packed."""
    cost = np.zeros_like(scaled)
    inner = [slice(None)] * 3
    inner[axis] = slice(1, None)
    np.cumsum((np.abs(np.diff(scaled, axis=axis)) + 1) << bits, axis=axis, out=cost[tuple(inner)])
    return cost


def _relax(
    packed: np.ndarray, scaled: np.ndarray, bits: int, settled: float, check: Optional[Callable[[], None]]
) -> None:
    """Walk lines along all axes, both ways, and diagonal steps until nothing (or little) changes; in place."""
    costs = [_running_cost(scaled, axis, bits) for axis in range(3)]
    for _ in range(_SWEEPS):
        if check:
            check()
        before = packed.copy()
        for axis, cost in enumerate(costs):
            backward = tuple(slice(None, None, -1) if other == axis else slice(None) for other in range(3))
            for part, walked in ((packed, cost), (packed[backward], -cost[backward])):
                reached = part - walked
                np.minimum.accumulate(reached, axis=axis, out=reached)
                reached += walked
                np.minimum(part, reached, out=part)
        for offset in _DIAGONALS:
            here = tuple(slice(max(-step, 0), -step if step > 0 else None) for step in offset)
            there = tuple(slice(max(step, 0), step if step < 0 else None) for step in offset)
            one, two = packed[here], packed[there]
            walked = (np.abs(scaled[here] - scaled[there]) + 1) << bits
            np.minimum(two, one + walked, out=two)
            np.minimum(one, two + walked, out=one)
        if np.count_nonzero(before != packed) <= settled * packed.size:
            return
