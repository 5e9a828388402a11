"""Crops around annotations: few, covering every annotated voxel, classes balanced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..annotation.labels import UNKNOWN

_CANDIDATES = 160
_SAMPLED = 6000  # annotated voxels per class and volume that the cover looks at
_MARGIN = 4  # voxels: an annotated voxel at the very border of a crop lacks context


@dataclass
class Crop:
    """A tile of a volume: image (1, 1, D, H, W) normalized, labels (D, H, W) int64 as in :mod:`..annotation.labels`,
    and where it starts (z, y, x)."""

    image: Tensor
    labels: Tensor
    start: tuple[int, int, int] = (0, 0, 0)


def cover(
    array: np.ndarray, labels: np.ndarray, tile: tuple[int, int, int], limit: int, rng: np.random.Generator
) -> list[Crop]:
    """At most ``limit`` crops of extents ``tile`` that cover the annotated voxels greedily.

    :param array: normalized volume (z, y, x).
    :param labels: int16 (z, y, x) as in :mod:`..annotation.labels`.
    """
    points, weights = [], []
    for value in np.unique(labels[labels != UNKNOWN]):
        own = np.argwhere(labels == value)
        if len(own) > _SAMPLED:
            own = own[rng.permutation(len(own))[:_SAMPLED]]
        points.append(own)
        # Every class weighs the same; known background, which lies everywhere anyway, and corrections half.
        weights.append(np.full(len(own), (1.0 if value > 0 else 0.5) / len(own)))
    if not points:
        return []
    where, weight = np.concatenate(points).astype(np.int32), np.concatenate(weights)
    shape, size = np.asarray(array.shape, np.int32), np.asarray(tile, np.int32)
    open_, total = np.ones(len(where), bool), weight.sum()
    crops: list[Crop] = []
    while len(crops) < limit and weight[open_].sum() > 1e-3 * total:
        left = np.flatnonzero(open_)
        chosen = rng.choice(left, min(_CANDIDATES, len(left)), replace=False, p=weight[left] / weight[left].sum())
        starts = np.clip(where[chosen] - size // 2, 0, np.maximum(shape - size, 0))
        # Where the tile touches the volume's border there is no context to miss.
        low = starts + np.where(starts > 0, _MARGIN, 0)
        high = starts + size - np.where(starts + size < shape, _MARGIN, 0)
        inside = np.ones((len(chosen), len(left)), bool)
        for along, first, end in zip(np.ascontiguousarray(where[left].T), low.T, high.T):  # at once takes far longer
            inside &= along >= first[:, None]
            inside &= along < end[:, None]
        best = int((inside @ weight[left]).argmax())
        open_[left[inside[best]]] = False
        crops.append(cut(array, labels, starts[best], size))
    return crops


def cut(array: np.ndarray, labels: np.ndarray, start: np.ndarray, size: np.ndarray) -> Crop:
    """The crop of extents ``size`` from voxel ``start`` on, both (z, y, x); air, unknown, where the volume ends."""
    window = tuple(slice(a, a + n) for a, n in zip(start, size))
    image, known = array[window], labels[window]
    missing = [n - extent for n, extent in zip(size, image.shape)]
    # As the sliding window pads a volume smaller than a tile: on both sides, with air.
    pad = [(int(m // 2), int(m - m // 2)) for m in missing]
    if any(missing):
        image, known = np.pad(image, pad, constant_values=-1.0), np.pad(known, pad, constant_values=-1)
    z, y, x = (int(at) for at in start)
    tile = torch.from_numpy(np.ascontiguousarray(image))[None, None]
    return Crop(tile, torch.from_numpy(known.astype(np.int64)), (z, y, x))
