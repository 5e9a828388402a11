"""Strokes grown over network evidence: Grow from seeds with a network term.

Every class competes for every voxel by the cheapest path from its strokes, where a step
costs the change of intensity it crosses plus a price for walking on voxels that the
network gives to another class (docs/methods.md#growing): the geodesic distance of Grow
from seeds (Zhu et al., 2014) with a network term. Paths are scipy's Dijkstra, one class at
a time and only where the class can matter.
"""

from __future__ import annotations

import itertools
from typing import Optional, Protocol

import numpy as np
from scipy.ndimage import binary_dilation
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from ..examples.annotation import UNKNOWN, barred_label
from ..progress import Job

PRICE = 3.0  # gamma: flat over 2..4
FLOOR = 0.01  # no voxel is forbidden
POSSIBLE = 0.05  # probability from which a class can matter somewhere
CONTRAST = 127.5  # normalised intensities span 2; the paths count changes on 0..255
UNREACHED = np.float32(1e4)
_REACH = 5  # voxels around strokes and possible places that take part


class Shares(Protocol):
    """Probabilities of the background and of every class, (z, y, x) each; a list of arrays is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


def grow(
    array: np.ndarray,
    probabilities: Shares,
    strokes: np.ndarray,
    spacing: tuple[float, float, float],
    job: Optional[Job] = None,
    price: float = PRICE,
) -> np.ndarray:
    """Advantage of every class over its best competitor, background included.

    :param array: normalised image (z, y, x).
    :param probabilities: 1 + classes arrays (z, y, x), the first background.
    :param strokes: int16 (z, y, x): -1 unknown, 0 background, k the k-th class, -(k + 1) not the k-th class.
    :param spacing: mm (z, y, x).
    :return: (classes, z, y, x) float16; positive where the class wins, negative elsewhere.

    Classes and background are also seeded where they carry no stroke in this volume: a class
    where the network is certain of it, so that it does not vanish; the background where no
    class is possible nearby, so that nothing floods the volume.
    """
    job = job or Job()
    count = len(probabilities)
    result = np.full((count - 1, *array.shape), -UNREACHED, np.float16)
    possible = []
    for index in range(1, count):
        seeds, share = strokes == index, probabilities[index]
        if not seeds.any():
            seeds = (share > 0.9) & (strokes < 0)
        barred = strokes == barred_label(index)
        seeds &= ~barred
        own = (share > POSSIBLE) | seeds
        possible.append((seeds, _dilated(own, _REACH if seeds.any() else 0) & ~barred))
    domain = _dilated(np.logical_or.reduce([where for _, where in possible]), _REACH)
    if not domain.any():
        return result
    # The rim of the domain is background: no class is possible within _REACH voxels of it.
    rim = domain & ~_eroded(domain)
    box = _box(domain)
    inner = array[box]
    costs = np.full((count, *inner.shape), UNREACHED, np.float32)
    for index in range(count):
        job.report("growing", index / count)
        seeds, where = ((strokes == 0) & domain | rim, domain) if index == 0 else possible[index - 1]
        if seeds.any():
            costs[index] = path_cost(inner, probabilities[index][box], seeds[box], where[box], spacing, price)
    # The two cheapest claims on every voxel: a class's best competitor is one of them.
    first, second = np.minimum(costs[0], costs[1]), np.maximum(costs[0], costs[1])
    for cost in costs[2:]:
        second = np.minimum(second, np.maximum(first, cost))
        first = np.minimum(first, cost)
    for index in range(1, count):
        others = np.where(costs[index] == first, second, first)
        result[index - 1][box] = others - costs[index]
    return result


def grow_quickly(
    array: np.ndarray,
    probabilities: Shares,
    strokes: np.ndarray,
    spacing: tuple[float, float, float],
    job: Optional[Job] = None,
) -> np.ndarray:
    """As :func:`grow` on every second voxel along each axis, for a first look: (classes, z / 2, y / 2, x / 2).

    Strokes between those voxels are kept: a cell takes the first class painted in it, else what is barred there,
    else background.
    """
    cells = np.full(tuple(-(-extent // 2) for extent in strokes.shape), UNKNOWN, np.int16)
    for part in itertools.product((0, 1), repeat=3):
        own = strokes[part[0] :: 2, part[1] :: 2, part[2] :: 2]
        into = cells[: own.shape[0], : own.shape[1], : own.shape[2]]
        better = _weight(own) > _weight(into)
        into[better] = own[better]
    z, y, x = (2 * step for step in spacing)
    return grow(array[::2, ::2, ::2], _Thinned(probabilities), cells, (z, y, x), job)


def _weight(labels: np.ndarray) -> np.ndarray:
    """Unknown 0, background 1, barred 2, a class 3."""
    return np.select([labels > 0, labels < UNKNOWN, labels == 0], [3, 2, 1], 0).astype(np.int8)


class _Thinned:
    """Every second voxel of shares."""

    def __init__(self, shares: Shares):
        self._shares = shares

    def __len__(self) -> int:
        return len(self._shares)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._shares[index][::2, ::2, ::2]


def path_cost(
    array: np.ndarray,
    probability: np.ndarray,
    seeds: np.ndarray,
    where: np.ndarray,
    spacing: tuple[float, float, float],
    price: float = PRICE,
) -> np.ndarray:
    """Cost (z, y, x) float32 of the cheapest 6-connected path within ``where`` from ``seeds`` to every voxel.

    Crossing from a voxel to its neighbour costs ``|dI| + price * step * mean(-log p)``, I on
    0..255, step in units of the finest spacing. ``UNREACHED`` where there is no path.
    """
    penalty = -np.log(np.clip(probability, FLOOR, 1.0)).astype(np.float32) * np.float32(price)
    numbers = np.full(array.shape, -1, np.int32)
    numbers[where] = np.arange(int(where.sum()), dtype=np.int32)
    rows, columns, weights = [], [], []
    for axis in range(3):
        one, two = [slice(None)] * 3, [slice(None)] * 3
        one[axis], two[axis] = slice(None, -1), slice(1, None)
        here, there = tuple(one), tuple(two)
        both = where[here] & where[there]
        step = spacing[axis] / min(spacing)
        edge = np.abs(array[there][both] - array[here][both]) * np.float32(CONTRAST)
        edge += (penalty[there][both] + penalty[here][both]) * np.float32(step / 2)
        rows.append(numbers[here][both])
        columns.append(numbers[there][both])
        weights.append(edge + np.float32(1e-3))  # an explicit zero would be no edge
    size = int(where.sum())
    graph = csr_matrix((np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), (size, size))
    reached = dijkstra(graph, directed=False, indices=numbers[seeds & where], min_only=True)
    cost = np.full(array.shape, UNREACHED, np.float32)
    cost[where] = np.minimum(reached, UNREACHED)
    return cost


def _dilated(mask: np.ndarray, voxels: int) -> np.ndarray:
    return binary_dilation(mask, iterations=voxels) if voxels else mask


def _eroded(mask: np.ndarray) -> np.ndarray:
    """Voxels all of whose 6 neighbours are in the mask; the volume's border does not erode."""
    return ~binary_dilation(~mask)


def _box(mask: np.ndarray) -> tuple[slice, slice, slice]:
    """Bounding box of a mask that holds something."""
    window = []
    for axis in range(3):
        line = np.flatnonzero(mask.any(tuple(other for other in range(3) if other != axis)))
        window.append(slice(int(line[0]), int(line[-1]) + 1))
    return window[0], window[1], window[2]
