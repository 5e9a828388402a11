"""What the growing network is shown of a class: image, strokes, the grown region, and evidence if there is some.

Nothing depends on the unit of intensity, on the unit of length, or on the number of classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter1d

from ..annotation.labels import UNKNOWN, excluded_label
from .paths import grow_plainly

# Image; image around the class's own intensities; what its strokes' intensities say; strokes; nearness of its own, of
# all others; which are nearer; grown region; how sure growing is; evidence; whether there is any.
CHANNELS = 11
REGION = 7  # the channel of the grown region, -1 or 1
_NEAR = 6.0  # voxels (of the finest spacing) in which nearness falls to 1/e
_CERTAIN = 0.15  # ranges of the image, likewise
_BINS = 128
_ROBUST = (0.5, 99.5)
_REACH = 0.2  # of the painted extent


@dataclass(frozen=True)
class Ground:
    """What all classes of an image share on one grid; arrays are (z, y, x).

    :param array: float32 intensities.
    :param strokes: int16 labels as in ``annotation.labels``.
    :param spacing: mm (z, y, x).
    :param limits: robust range of the image.
    :param ranks: uint8, which of ``_BINS`` equally full bins of the image a voxel is in.
    :param grown: int16 plainly grown labels, 0 background.
    :param cost: float32 of the path there, in ranges of the image.
    """

    array: np.ndarray
    strokes: np.ndarray
    spacing: tuple[float, float, float]
    limits: tuple[float, float]
    ranks: np.ndarray
    grown: np.ndarray
    cost: np.ndarray

    @classmethod
    def of(
        cls,
        array: np.ndarray,
        strokes: np.ndarray,
        spacing: tuple[float, float, float],
        limits: Optional[tuple[float, float]] = None,
        rim: Optional[np.ndarray] = None,
    ) -> Ground:
        """Grow plainly; ``rim``, int16 (z, y, x), holds labels that are known without having been painted, or -1."""
        limits = limits or robust_limits(array)
        seeds = np.where(strokes >= 0, strokes, np.where(strokes < UNKNOWN, 0, -1))
        if rim is not None:
            seeds = np.where((seeds < 0) & (rim >= 0), rim, seeds)
        grown, cost = grow_plainly(array, seeds, limits)
        if rim is None:
            grown = _within_reach(grown, strokes != UNKNOWN)
        sample = array[tuple(slice(None, None, max(1, extent // 48)) for extent in array.shape)]
        edges = np.quantile(sample, np.linspace(0, 1, _BINS + 1)[1:-1])
        ranks = np.searchsorted(edges, array.ravel(), side="right").reshape(array.shape).astype(np.uint8)
        return cls(array.astype(np.float32), strokes, spacing, limits, ranks, np.maximum(grown, 0), cost)


def _within_reach(grown: np.ndarray, painted: np.ndarray) -> np.ndarray:
    """Background outside the box of all strokes, a fifth larger on either side, as Grow from seeds has it."""
    result = np.zeros_like(grown)
    box = []
    for axis, extent in enumerate(grown.shape):
        line = np.flatnonzero(painted.any(tuple(other for other in range(3) if other != axis)))
        if not len(line):
            return result
        more = max(3, int(_REACH * (line[-1] - line[0])))
        box.append(slice(max(int(line[0]) - more, 0), min(int(line[-1]) + more + 1, extent)))
    result[tuple(box)] = grown[tuple(box)]
    return result


def robust_limits(array: np.ndarray) -> tuple[float, float]:
    """The range of an image without its outermost intensities; never empty."""
    sample = array[tuple(slice(None, None, max(1, extent // 64)) for extent in array.shape)]
    low, high = (float(value) for value in np.percentile(sample, _ROBUST))
    if high - low < 1e-6 * max(abs(low), abs(high), 1e-30):
        low, high = float(array.min()), float(array.max())
    return low, high if high > low else low + 1.0


def question(ground: Ground, index: int, evidence: Optional[np.ndarray] = None) -> np.ndarray:
    """Channels float32 (CHANNELS, z, y, x) for the class numbered ``index`` from 1 (or 0, the background).

    :param evidence: (z, y, x) probability of the class in [0, 1] from elsewhere; it may be wrong.
    """
    array, strokes = ground.array, ground.strokes
    own = strokes == index
    others = ((strokes >= 0) & ~own) | (strokes == excluded_label(index) if index else strokes < UNKNOWN)
    result = np.empty((CHANNELS, *array.shape), np.float32)
    low, high = ground.limits
    result[0] = np.clip((array - low) * (2 / (high - low)) - 1, -1.5, 1.5)
    result[1] = _around_own(array, own, others, high - low)
    result[2] = _told_apart(ground.ranks, own, others)
    result[3] = own.astype(np.float32) - others
    result[4:7] = _nearness(own, others, ground.spacing)
    result[REGION] = np.where(ground.grown == index, 1, -1)
    result[8] = np.exp(ground.cost * (-1 / _CERTAIN))
    result[9] = 0 if evidence is None else evidence * 2 - 1
    result[10] = evidence is not None
    return result


def _around_own(array: np.ndarray, own: np.ndarray, others: np.ndarray, span: float) -> np.ndarray:
    """Intensities around the median of the class's own, in units of what its strokes span."""
    if not own.any():
        return np.zeros(array.shape, np.float32)
    low, middle, high = np.percentile(array[own], (20, 50, 80))
    apart = abs(float(np.median(array[others])) - middle) if others.any() else 0.0
    scale = max(2 * (high - low), apart, 0.01 * span)
    return np.tanh((array - np.float32(middle)) * np.float32(1 / scale))


def _told_apart(ranks: np.ndarray, own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Logarithm of how much more frequent an intensity is among the class's strokes than among others', in [-1, 1]."""
    if not own.any():
        return np.zeros(ranks.shape, np.float32)
    shares = []
    for where in (own, others):
        counts = np.bincount(ranks[where], minlength=_BINS).astype(float)
        share = gaussian_filter1d(counts, 3.0, mode="nearest") / max(counts.sum(), 1)
        shares.append(share + 0.05 / _BINS if counts.any() else np.full(_BINS, 1 / _BINS))
    table = np.clip(np.log(shares[0] / shares[1]) / 4, -1, 1)
    return table.astype(np.float32)[ranks]


def _nearness(own: np.ndarray, others: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """(3, z, y, x): nearness of the class's own strokes, of all others, and which of them is nearer, in [-1, 1].

    Distances are smooth: every second voxel is enough.
    """
    finest = min(spacing)
    every = tuple(2 if step <= 1.5 * finest and extent >= 8 else 1 for step, extent in zip(spacing, own.shape))
    steps = [step * each / finest for step, each in zip(spacing, every)]
    near = []
    for where in (own, others):
        coarse = _any_in_blocks(where, every)
        far = distance_transform_edt(~coarse, sampling=steps) if coarse.any() else np.full(coarse.shape, 1e3)
        near.append(far.astype(np.float32))
    mine, theirs = near
    maps = np.stack([np.exp(mine * (-1 / _NEAR)), np.exp(theirs * (-1 / _NEAR)), (theirs - mine) / (theirs + mine + 1)])
    for axis, each in enumerate(every, 1):
        maps = maps.repeat(each, axis)
    return maps[:, : own.shape[0], : own.shape[1], : own.shape[2]]


def _any_in_blocks(mask: np.ndarray, every: Sequence[int]) -> np.ndarray:
    for axis, each in enumerate(every):
        if each > 1:
            mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], each), axis=axis)
    return mask
