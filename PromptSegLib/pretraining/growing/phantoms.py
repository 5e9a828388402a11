"""Label maps made by code, thinner and closer than organs: tubes, sheets, nested or touching blobs, layered bodies."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..synthesis import smooth_noise

Structure = list[np.ndarray]  # a mask (z, y, x) for each of its tissues


def phantom(shape: tuple[int, int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Tissues and structures, int16 (z, y, x) each: two to six structures (from 1 on) of one or several tissues (from 1
    on), on a background (structure 0) of one to three tissues (below 1)."""
    tissues, structures = np.zeros(shape, np.int16), np.zeros(shape, np.int16)
    if rng.random() < 0.7:
        field = smooth_noise(shape, rng.uniform(8, 30), rng)
        tissues -= (field > 0).astype(np.int16)
        tissues -= 2 * (field > rng.uniform(0.5, 1.5)).astype(np.int16)
    kinds = [_tube, _tube, _sheet, _nested, _balls, _layered, _layered]
    tissue = value = 0
    for _ in range(int(rng.integers(1, 4))):
        for masks in kinds[int(rng.integers(len(kinds)))](shape, rng):
            value += 1
            for mask in masks:
                tissue += 1
                tissues[mask], structures[mask] = tissue, value
    return tissues, structures


def _tube(shape: tuple[int, int, int], rng: np.random.Generator) -> list[Structure]:
    """A winding tube of 1 to 8 voxels, through the whole volume, and sometimes a second one beside it."""
    radius = rng.uniform(0.6, 4.0)
    masks = []
    for _ in range(int(rng.integers(1, 3))):
        ends = rng.uniform(0.05, 0.95, (2, 3)) * np.asarray(shape)
        axis = int(rng.integers(3))
        ends[0, axis], ends[1, axis] = 0, shape[axis] - 1
        t = np.linspace(0, 1, 6 * max(shape))[:, None]
        path = ends[0] * (1 - t) + ends[1] * t
        for wave in range(1, 4):
            path += (
                np.sin(np.pi * wave * t + rng.uniform(0, 6, 3)) * rng.uniform(0, 10 / wave, 3) * (np.arange(3) != axis)
            )
        line = np.ones(shape, bool)
        line[tuple(np.clip(np.rint(path).astype(int), 0, np.asarray(shape) - 1).T)] = False
        masks.append([ndimage.distance_transform_edt(line) <= radius])
    return masks


def _sheet(shape: tuple[int, int, int], rng: np.random.Generator) -> list[Structure]:
    """A curved sheet of 1 to 4 voxels."""
    return [[np.abs(_above_a_surface(shape, rng)) <= rng.uniform(0.5, 2.0)]]


def _above_a_surface(shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Voxels above a curved surface, below it negative, (z, y, x)."""
    axis = int(rng.integers(3))
    height = smooth_noise(shape, max(shape) / 2, rng).mean(axis, keepdims=True) * rng.uniform(2, 10)
    height = height + rng.uniform(0.3, 0.7) * shape[axis]
    position = np.arange(shape[axis]).reshape([-1 if other == axis else 1 for other in range(3)])
    return np.broadcast_to(position - height, shape)


def _nested(shape: tuple[int, int, int], rng: np.random.Generator) -> list[Structure]:
    """A blob in a blob, as pulp in a tooth or a cavity in its wall; the outer one first."""
    far = _blob(shape, rng, rng.uniform(0.2, 0.45))
    depth = rng.uniform(0.15, 0.6)
    return [[far > 0], [far > depth]]


def _balls(shape: tuple[int, int, int], rng: np.random.Generator) -> list[Structure]:
    """Two blobs that touch, or nearly."""
    return [[_blob(shape, rng, rng.uniform(0.15, 0.35)) > 0] for _ in range(2)]


def _layered(shape: tuple[int, int, int], rng: np.random.Generator) -> list[Structure]:
    """A body of a shell around one or two other tissues, as bones, teeth and kidneys are; or two with a gap between."""
    body = _blob(shape, rng, rng.uniform(0.3, 0.7)) > 0
    halves = [body]
    if rng.random() < 0.5:
        above, gap = _above_a_surface(shape, rng), rng.uniform(0.5, 2.5)
        halves = [body & (above > gap), body & (above < -gap)]
    thick, share = rng.uniform(1, 6), rng.uniform(-1.5, 1.5)
    field = smooth_noise(shape, rng.uniform(1.5, 10), rng)
    structures = []
    for half in halves:
        inner = ndimage.distance_transform_edt(half) > thick
        structures.append([half & ~inner, inner & (field > share), inner & (field <= share)])
    return structures


def _blob(shape: tuple[int, int, int], rng: np.random.Generator, size: float) -> np.ndarray:
    """Float field that is positive in a dented ellipsoid, 1 at its center."""
    center, radii = rng.uniform(0.25, 0.75, 3), size * rng.uniform(0.5, 1.3, 3)
    axes = np.ogrid[tuple(slice(extent) for extent in shape)]
    far = sum(((at / extent - c) / r) ** 2 for at, extent, c, r in zip(axes, shape, center, radii))
    return 1 - np.sqrt(far) + 0.15 * smooth_noise(shape, min(shape) / 4, rng)
