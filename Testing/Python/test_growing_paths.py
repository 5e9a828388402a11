"""Plain growing: exact cheapest paths, and what Slicer's own Grow from seeds makes of the same strokes."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from PromptSegLib.growing.inputs import Ground
from PromptSegLib.growing.paths import STEPS, grow_plainly

sys.path.insert(0, str(Path(__file__).parents[1] / "Benchmark"))
from baselines import grow_from_seeds


def costs_by_dijkstra(array: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Cost to every voxel from its nearest seed over the 26 neighbors, steps as ``grow_plainly`` counts them."""
    scaled = np.clip(array.astype(np.float32) * np.float32(STEPS), 0, STEPS).astype(float)
    number = np.arange(array.size).reshape(array.shape)
    rows, columns, weights = [], [], []
    for offset in itertools.product((-1, 0, 1), repeat=3):
        if not any(offset):
            continue
        here = tuple(slice(max(-step, 0), -step if step > 0 else None) for step in offset)
        there = tuple(slice(max(step, 0), step if step < 0 else None) for step in offset)
        rows.append(number[here].ravel())
        columns.append(number[there].ravel())
        weights.append(np.abs(scaled[here] - scaled[there]).ravel() + 1.0)
    edges = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    graph = coo_matrix(edges, (array.size, array.size)).tocsr()
    return dijkstra(graph, indices=number[seeds >= 0]).min(0).reshape(array.shape)


@pytest.mark.parametrize("kind", [np.int16, np.int64])
@pytest.mark.parametrize("seed", range(3))
def test_costs_are_those_of_the_cheapest_paths(seed, kind):
    rng = np.random.default_rng(seed)
    array = rng.random((9, 11, 13))
    seeds = np.full(array.shape, -1, kind)
    for label in (0, 1, 300 * seed + 2):
        seeds[tuple(rng.integers(0, extent) for extent in array.shape)] = label
    labels, cost = grow_plainly(array, seeds, (0.0, 1.0))
    assert np.allclose(cost * STEPS, costs_by_dijkstra(array, seeds), rtol=1e-5)
    assert (labels[seeds >= 0] == seeds[seeds >= 0]).all() and set(np.unique(labels)) == set(seeds[seeds >= 0])


def test_without_seeds_nothing_is_labeled():
    labels, _ = grow_plainly(np.zeros((2, 3, 4)), np.full((2, 3, 4), -1), (0.0, 1.0))
    assert (labels == -1).all()


@pytest.mark.parametrize("seed", range(2))
def test_it_gives_what_grow_from_seeds_gives(seed):
    rng = np.random.default_rng(seed)
    array = np.zeros((20, 40, 44), np.float32)
    array[4:16, 8:30, 6:20] = 300
    array[6:18, 12:34, 20:38] = 600
    array += rng.normal(0, 40, array.shape)
    annotation = np.zeros(array.shape, np.uint8)
    annotation[10, 12:26, 12], annotation[10, 18:30, 30], annotation[10, 2, 2:40] = 1, 2, 9
    given = sitk.GetArrayFromImage(grow_from_seeds(sitk.GetImageFromArray(array), sitk.GetImageFromArray(annotation)))
    strokes = np.where(annotation == 9, 0, np.where(annotation > 0, annotation.astype(np.int16), -1))
    grown = Ground.of(array, strokes, (1.0, 1.0, 1.0)).grown
    for label in (1, 2):
        both = ((given == label) & (grown == label)).sum()
        assert 2 * both / ((given == label).sum() + (grown == label).sum()) > 0.97
