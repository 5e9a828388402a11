"""Growing strokes over network evidence."""

from __future__ import annotations

import numpy as np
import pytest

from PromptSegLib.inference.growing import FLOOR, UNREACHED, grow, grow_quickly, path_cost
from PromptSegLib.inference.native import winner

SPACING = (3.0, 2.0, 2.0)


def scene(contrast: float = 1.0):
    """Two touching boxes in a background: intensities differ by ``contrast`` (span is 2)."""
    array = np.full((16, 24, 40), -0.5, np.float32)
    truth = np.zeros(array.shape, int)
    truth[4:12, 6:18, 8:20] = 1
    truth[4:12, 6:18, 20:32] = 2
    array[truth == 1] = -0.5 + contrast
    array[truth == 2] = -0.5 + contrast / 2
    strokes = np.full(array.shape, -1, np.int16)
    strokes[8, 12, 10:16] = 1
    strokes[8, 12, 24:30] = 2
    strokes[8, 2, 2:38] = 0
    return array, truth, strokes


def flat(truth: np.ndarray, certainty: float = 0.0) -> np.ndarray:
    shares = np.full((3, *truth.shape), (1 - certainty) / 3, np.float32)
    for index in range(3):
        shares[index][truth == index] += certainty
    return shares


def test_intensity_edges_alone_separate_classes():
    array, truth, strokes = scene()
    assert (winner(grow(array, flat(truth), strokes, SPACING)) == truth).mean() > 0.99


def test_the_network_separates_what_intensity_does_not():
    array, truth, strokes = scene(contrast=0.0)
    blind = winner(grow(array, flat(truth), strokes, SPACING))
    guided = winner(grow(array, flat(truth, 0.8), strokes, SPACING))
    assert (blind == truth).mean() < 0.9 < 0.98 < (guided == truth).mean()


@pytest.mark.parametrize("seed", range(3))
def test_strokes_are_always_honoured(seed):
    rng = np.random.default_rng(seed)
    array, truth, strokes = scene()
    spots = tuple(rng.integers(0, array.shape, (40, 3)).T)
    strokes[spots] = rng.integers(0, 3, 40)
    won = winner(grow(array, flat(truth, 0.9), strokes, SPACING))
    assert (won[strokes > 0] == strokes[strokes > 0]).all()
    assert (won[strokes == 0] == 0).all()


def test_path_cost_is_the_sum_along_the_path():
    array = np.zeros((1, 1, 5), np.float32)
    array[0, 0, 3:] = 0.5
    probability = np.full((1, 1, 5), np.exp(-1), np.float32)
    seeds = np.zeros((1, 1, 5), bool)
    seeds[0, 0, 0] = True
    cost = path_cost(array, probability, seeds, np.ones_like(seeds), SPACING, price=2.0)
    jump = 0.5 * 127.5
    assert np.allclose(cost[0, 0], [0, 2, 4, 6 + jump, 8 + jump], atol=0.01)
    tall = path_cost(
        array.reshape(5, 1, 1),
        probability.reshape(5, 1, 1),
        seeds.reshape(5, 1, 1),
        np.ones((5, 1, 1), bool),
        SPACING,
        2.0,
    )
    assert np.allclose(tall[:3, 0, 0], [0, 3, 6], atol=0.01)  # steps along z are 1.5 times as long


def test_paths_stay_where_they_may_and_go_around_walls():
    where = np.ones((1, 7, 7), bool)
    where[0, 1:, 3] = False
    seeds = np.zeros_like(where)
    seeds[0, 6, 0] = True
    cost = path_cost(
        np.zeros(where.shape, np.float32), np.full(where.shape, np.exp(-1), np.float32), seeds, where, (1, 1, 1), 1.0
    )
    assert cost[0, 6, 6] == pytest.approx(18, abs=0.1)  # up, over and down again
    assert cost[0, 3, 3] == UNREACHED


def test_no_voxel_is_forbidden():
    probability = np.zeros((1, 1, 3), np.float32)
    seeds = np.array([[[True, False, False]]])
    cost = path_cost(np.zeros((1, 1, 3), np.float32), probability, seeds, np.ones_like(seeds), (1, 1, 1), 1.0)
    assert cost[0, 0, 2] == pytest.approx(-2 * np.log(FLOOR), abs=0.01)


def test_a_class_without_a_stroke_stays_where_the_network_is_certain():
    array, truth, strokes = scene()
    strokes[strokes == 2] = -1
    won = winner(grow(array, flat(truth, 0.95), strokes, SPACING))
    assert (won == truth).mean() > 0.97
    unsure = winner(grow(array, flat(truth), strokes, SPACING))
    assert not (unsure == 2).any()


def test_without_background_strokes_nothing_floods_the_volume():
    array, truth, strokes = scene()
    strokes[strokes == 0] = -1
    won = winner(grow(array, flat(truth, 0.97), strokes, SPACING))
    assert (won == truth).mean() > 0.97


def test_nothing_painted_and_nothing_certain_gives_nothing():
    array, truth, strokes = scene()
    strokes[:] = -1
    assert not winner(grow(array, flat(truth), strokes, SPACING)).any()


def test_growing_quickly_keeps_strokes_between_the_voxels_it_looks_at():
    array = np.zeros((9, 10, 12), np.float32)
    array[:, :, 6:] = 1.0
    share = np.full(array.shape, 0.5, np.float32)
    strokes = np.full(array.shape, -1, np.int16)
    strokes[3, 3, 1] = 1  # odd everywhere
    strokes[5, 5, 11] = 0
    strokes[2, 2, 2], strokes[3, 2, 2] = 0, -2  # barred goes before background in one cell
    fields = grow_quickly(array, [1 - share, share], strokes, (1.0, 1.0, 1.0))
    assert fields.shape == (1, 5, 5, 6)
    assert fields[0, 1, 1, 0] > 0 and (fields[0, :, :, 0] > 0).all()
    assert (fields[0, :, :, 4:] < 0).all()
    assert fields[0, 1, 1, 1] <= 0
