"""Simulated users, quick enough for training: what they paint of some structures, and how they correct a result."""

from __future__ import annotations

from typing import Sequence

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.special import expit

from ...annotation.labels import UNKNOWN
from ...errors import PromptSegError
from ...evaluation.scribbles import scribble


def painted(truth: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Strokes int16 (z, y, x), -1 unknown, 0 background, k the k-th class, for ``truth`` (0, or a class 1..count).

    In four of ten views the careful user of ``evaluation.scribbles``; else somebody who paints lines, blobs or
    single voxels on one to four slices of any direction, and background here and there.
    """
    if rng.random() < 0.4:
        try:
            return _careful(truth, count, rng)
        except PromptSegError:
            pass
    strokes = np.full(truth.shape, UNKNOWN, np.int16)
    axis = 0 if rng.random() < 0.6 else int(rng.integers(3))
    for index in range(1, count + 1):
        for place in _slices(truth == index, axis, int(rng.integers(1, 5)), rng):
            _mark(strokes, place, (truth == index)[place], index, rng)
    planes = np.unique(np.nonzero(strokes > 0)[axis])
    if not len(planes):
        return strokes
    some = truth > 0
    near = ndimage.binary_dilation(some, iterations=int(rng.integers(2, 6))) & ~some
    for _ in range(int(rng.integers(1, 3 + 2 * len(planes)))):
        plane = int(rng.choice(planes)) if rng.random() < 0.8 else int(rng.integers(truth.shape[axis]))
        place = _plane(axis, plane)
        where = near[place] if rng.random() < 0.6 and near[place].any() else ~some[place]
        if where.any():
            _mark(strokes, place, where, 0, rng)
    return strokes


def corrected(truth: np.ndarray, strokes: np.ndarray, answer: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``strokes`` with one or two more in the largest places where ``answer`` (0, or a class) is wrong."""
    strokes = strokes.copy()
    wrong = (truth != answer) & (strokes == UNKNOWN)
    thick = ndimage.binary_erosion(wrong)
    parts, number = ndimage.label(thick if thick.any() else wrong)
    if not number:
        return strokes
    sizes = np.bincount(parts.ravel())[1:]
    for part in np.argsort(-sizes)[: int(rng.integers(1, 3))]:
        inside = parts == part + 1
        axis = int(rng.integers(3))
        areas = inside.sum(tuple(other for other in range(3) if other != axis))
        place = _plane(axis, int(areas.argmax()))
        values = np.unique(truth[place][inside[place]])
        value = int(rng.choice(values))
        _mark(strokes, place, inside[place] & (truth[place] == value), value, rng)
    return strokes


def _careful(truth: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Strokes of the user who benchmarks are made with."""
    reference = sitk.GetImageFromArray(truth.astype(np.uint8))
    drawn = scribble(
        reference,
        {str(index): index for index in range(1, count + 1)},
        255,
        int(rng.integers(1, 5)),
        seed=int(rng.integers(1 << 30)),
        width=int(rng.integers(1, 3)),
        background_share=float(rng.choice([0.001, 0.0025, 0.005])),
    )
    array = sitk.GetArrayFromImage(drawn).astype(np.int16)
    return np.select([array == 255, array > 0], [0, array], UNKNOWN).astype(np.int16)


def _plane(axis: int, index: int) -> tuple:
    return tuple(index if other == axis else slice(None) for other in range(3))


def _slices(mask: np.ndarray, axis: int, number: int, rng: np.random.Generator) -> list[tuple]:
    """Up to ``number`` slices across ``axis`` that hold something of a mask, larger areas more likely."""
    areas = mask.sum(tuple(other for other in range(3) if other != axis)).astype(float)
    there = np.flatnonzero(areas)
    if not len(there):
        return []
    weights = np.sqrt(areas[there])
    chosen = rng.choice(there, min(number, len(there)), replace=False, p=weights / weights.sum())
    return [_plane(axis, int(index)) for index in chosen]


def _mark(strokes: np.ndarray, place: tuple, where: np.ndarray, value: int, rng: np.random.Generator) -> None:
    """Paint ``value`` into a slice, within ``where`` (bool), as a line, a blob or a single voxel; in place."""
    inner = ndimage.binary_erosion(where)
    if inner.any() and rng.random() < 0.7:
        where = inner
    spots = np.argwhere(where)
    kind = rng.random()
    ink = np.zeros(where.shape, bool)
    if kind < 0.1:
        ink[tuple(spots[rng.integers(len(spots))])] = True
    elif kind < 0.3:
        center = spots[rng.integers(len(spots))]
        radius = rng.uniform(1, 4)
        ink = ((np.indices(where.shape) - center[:, None, None]) ** 2).sum(0) <= radius**2
    else:
        for point in _curve(spots, rng):
            ink[point] = True
        if rng.random() < 0.4:
            ink = ndimage.binary_dilation(ink)
    plane = strokes[place]
    plane[ink & where & (plane == UNKNOWN)] = value
    strokes[place] = plane


def _curve(spots: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Pixels of a wobbling line through two or three of the spots."""
    knots = spots[rng.integers(len(spots), size=int(rng.integers(2, 4)))].astype(float)
    points: list[tuple[int, int]] = []
    for one, two in zip(knots, knots[1:]):
        length = max(int(np.abs(two - one).max()), 1)
        t = np.linspace(0, 1, 2 * length + 1)[:, None]
        side = np.array([one[1] - two[1], two[0] - one[0]]) * rng.normal(0, 0.15)
        path = np.rint(one * (1 - t) + two * t + np.sin(np.pi * t) * side).astype(int)
        points += [(int(row), int(column)) for row, column in path]
    high = spots.max(0)
    return [(row, column) for row, column in points if 0 <= row <= high[0] and 0 <= column <= high[1]]


def simulated_evidence(
    truth: np.ndarray, index: int, count: int, rng: np.random.Generator, noise: Sequence[np.ndarray]
) -> np.ndarray:
    """Probability (z, y, x) of a class as a network might give it: blurred, displaced, leaking, or of something else.

    :param noise: two smooth random fields of ``truth``'s shape.
    """
    mask = truth == index
    kind = rng.random()
    if kind < 0.12:  # of something else altogether
        others = [other for other in range(count + 1) if other != index]
        mask = truth == int(rng.choice(others))
    mask = mask.astype(np.float32)
    shift = rng.integers(-3, 4, 3) if rng.random() < 0.3 else (0, 0, 0)
    mask = np.roll(mask, tuple(int(each) for each in shift), (0, 1, 2))
    signed = ndimage.gaussian_filter(mask, rng.uniform(0.5, 3)) * 2 - 1
    strength = rng.uniform(0, 1.2) if kind < 0.7 else rng.uniform(0.8, 2.5)
    signed = signed + strength * noise[0] * np.clip(0.6 + noise[1], 0, None) + rng.normal(0, 0.15)
    return expit(signed * rng.uniform(2, 8)).astype(np.float32)
