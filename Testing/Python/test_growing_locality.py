"""Corrections stay local: what is taken of a new answer, and what stays as it was accepted."""

from __future__ import annotations

import numpy as np
import pytest

from PromptSegLib.annotation.labels import UNKNOWN, excluded_label
from PromptSegLib.growing.locality import contradictions, growing_steps, near_corrections
from PromptSegLib.imaging.geometry import Grid

SHAPE = (24, 60, 60)
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def nothing_painted() -> np.ndarray:
    return np.full(SHAPE, UNKNOWN, np.int16)


@pytest.fixture
def accepted() -> np.ndarray:
    """Two organs, the first with a leak of two voxels' width, and a third class on the far side."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:18, 10:25, 10:25] = 1
    labels[10:12, 17:19, 25:50] = 1
    labels[5:18, 40:52, 10:25] = 2
    labels[4:8, 4:8, 50:56] = 3
    return labels


def test_nothing_painted_changes_nothing(accepted):
    grown = np.roll(accepted, 3, axis=1)
    assert np.array_equal(near_corrections(accepted, grown, nothing_painted()), accepted)


def test_strokes_that_agree_with_what_was_accepted_change_nothing(accepted):
    painted = nothing_painted()
    painted[10, 12:20, 15] = 1
    painted[2, 30, 30:40] = 0
    painted[10, 45, 12] = excluded_label(1)
    assert not contradictions(accepted, painted).any()
    assert np.array_equal(near_corrections(accepted, np.zeros_like(accepted), painted), accepted)


@pytest.mark.parametrize("value", [0, excluded_label(1)], ids=["background", "erased"])
def test_a_leak_goes_as_a_whole_and_the_far_side_stays(accepted, value):
    grown = accepted.copy()
    grown[10:12, 17:19, 25:50] = 0
    grown[4:8, 4:8, 50:56] = 0  # nobody said so
    grown[5:18, 40:52, 25:33] = 2
    painted = nothing_painted()
    painted[10:12, 17:19, 44:46] = value
    result = near_corrections(accepted, grown, painted)
    assert not result[10:12, 17:19, 26:50].any()
    assert np.array_equal(result[4:8, 4:8, 50:56], accepted[4:8, 4:8, 50:56])
    assert (result == 2).sum() == (accepted == 2).sum()
    assert (result == 1)[5:18, 10:25, 10:25].all()


def test_a_thin_structure_is_added_to_its_end(accepted):
    accepted[10:12, 17:19, 25:50] = 0
    grown = accepted.copy()
    grown[15, 20, 25:58] = 1  # one voxel wide
    painted = nothing_painted()
    painted[15, 20, 30:50] = 1
    assert np.array_equal(near_corrections(accepted, grown, painted), grown)


def test_borders_that_move_all_around_stay_but_near_the_stroke(accepted):
    grown = accepted.copy()
    grown[4:19, 9:26, 9:26] = 1  # one voxel more on every side: connected all around the organ
    painted = nothing_painted()
    painted[10, 9, 12] = 1
    result = near_corrections(accepted, grown, painted)
    assert (result[9:12, 9, 11:14] == 1).all()
    assert np.array_equal(result[:, 20:, :], accepted[:, 20:, :])
    assert np.array_equal(result[:, :, 20:], accepted[:, :, 20:])


@pytest.mark.parametrize("steps", [(1, 1, 1), (1, 3, 3)])
def test_a_layer_goes_only_where_it_was_erased_and_coarser_steps_call_a_thicker_one_that(accepted, steps):
    accepted[10:12, 17:19, 25:50] = 0
    grown = np.where(accepted == 1, 0, accepted)
    grown[5:18, 13:22, 13:22] = 1  # three voxels less
    painted = nothing_painted()
    painted[11, 11, 16] = excluded_label(1)
    spacing = (3.0, 1.0, 1.0) if steps[1] > 1 else (1.0, 1.0, 1.0)
    result = near_corrections(accepted, grown, painted, steps=steps, spacing=spacing)
    assert not result[11, 10:13, 16].any()
    assert (result[5:18, 24, 24] == 0).all() == (steps == (1, 1, 1))  # more than a layer, where growing is exact
    assert (result[5:18, 22:23, 16] == 1).all()


@pytest.mark.parametrize("far", [2, 8])
def test_a_class_gains_about_as_far_beyond_a_stroke_as_that_is_from_what_was_there(accepted, far):
    grown = accepted.copy()
    grown[5:18, 10:58, 10:25] = 1  # far too much
    painted = nothing_painted()
    painted[11, 24 + far, 12:23] = 1
    result = near_corrections(accepted, grown, painted)
    gained = np.flatnonzero((result[11, :, 17] == 1) & (accepted[11, :, 17] != 1))
    assert 24 + 1.5 * far <= gained.max() <= 24 + 1.5 * far + 2
    assert (result[11, 25 : 24 + far, 12:23] == 1).all()


def test_a_class_that_was_only_painted_loses_nothing_and_one_that_was_only_erased_gains_nothing(accepted):
    grown = accepted.copy()
    grown[5:18, 10:25, 10:14] = 0
    grown[9:14, 25:30, 10:25] = 1
    painted = nothing_painted()
    painted[11, 27, 12:20] = 1
    result = near_corrections(accepted, grown, painted)
    assert (result[accepted == 1] == 1).all() and (result == 1).sum() > (accepted == 1).sum()
    painted = nothing_painted()
    painted[11, 15:20, 11] = excluded_label(1)
    result = near_corrections(accepted, grown, painted)
    assert not ((result == 1) & (accepted != 1)).any() and (result == 1).sum() < (accepted == 1).sum()


def test_a_class_of_which_nothing_is_there_yet_comes_as_it_is(accepted):
    grown = accepted.copy()
    grown[5:15, 30:38, 30:50] = 4
    painted = nothing_painted()
    painted[10, 34, 40:45] = 4
    assert np.array_equal(near_corrections(accepted, grown, painted), grown)


def test_strokes_and_erased_voxels_are_honored_whatever_was_grown(accepted):
    painted = nothing_painted()
    painted[10, 12, 12:15] = 2
    painted[10, 45, 12:15] = 0
    painted[10, 20, 12:15] = excluded_label(1)
    painted[10, 48, 12:15] = excluded_label(1)  # says nothing of class 2, which lies there
    result = near_corrections(accepted, accepted.copy(), painted)
    assert (result[10, 12, 12:15] == 2).all()
    assert not result[10, 45, 12:15].any() and not result[10, 20, 12:15].any()
    assert (result[10, 48, 12:15] == 2).all()


def test_what_was_painted_before_tells_confirmations_from_old_strokes(accepted):
    grown = accepted.copy()
    grown[10:14, 25:32, 12:20] = 1
    before, painted = nothing_painted(), nothing_painted()
    before[5, 12, 12] = painted[5, 12, 12] = 1
    painted[12, 24, 15] = 1  # agrees with what was accepted, at its border
    assert np.array_equal(near_corrections(accepted, grown, painted), accepted)
    changed = near_corrections(accepted, grown, painted, before) != accepted
    assert changed.any() and (grown == 1)[changed].all()


def test_the_steps_are_those_of_the_grid_that_growing_takes():
    painted = np.full((40, 300, 300), UNKNOWN, np.int16)
    native = Grid((300, 300, 40), (0.5, 0.5, 3.0), (0.0, 0.0, 0.0), IDENTITY)
    assert growing_steps(native, painted, 500_000) == (1.0, 1.0, 1.0)
    painted[20, 100:110, 100:110] = 1
    assert growing_steps(native, painted, 500_000) == (1.0, 1.0, 1.0)
    painted[5:35, 10:290, 10:290] = 1
    z, y, x = growing_steps(native, painted, 500_000)
    assert z == 1 and y == x > 1.5


# A change that touches a correction, and goes against other strokes


def strokes_in_the_first_organ() -> np.ndarray:
    painted = nothing_painted()
    for z in (8, 12, 16):
        painted[z, 12:23, 17] = 1
    return painted


@pytest.mark.parametrize("value", [0, excluded_label(1)], ids=["background", "erased"])
def test_a_class_that_collapses_where_something_was_erased_stays(accepted, value):
    painted = strokes_in_the_first_organ()
    painted[10:12, 17:19, 23:26] = value
    grown = np.where(accepted == 1, 0, accepted)
    grown[(painted == 1)] = 1
    result = near_corrections(accepted, grown, painted)
    assert not (result[10:12, 17:19, 23:26] == 1).any()
    lost = (accepted == 1) & (result != 1)
    assert 0 < lost.sum() < 0.35 * (accepted == 1).sum()  # what is near; without strokes elsewhere, all would go
    assert (result == 1)[5:18, 10:25, 10:18].all()


@pytest.mark.parametrize("value", [0, excluded_label(1)], ids=["background", "erased"])
def test_what_never_grew_from_the_strokes_is_no_leak(accepted, value):
    """As of a tuned organ with one stroke, of which something is erased at the far end: half of it and more is left."""
    grown = accepted.copy()
    grown[5:18, 10:25, 14:25] = 0  # all that grows is around the stroke
    painted = nothing_painted()
    painted[10, 12:20, 11] = 1
    painted[10, 14:18, 23:25] = value
    result = near_corrections(accepted, grown, painted)
    assert not (result == 1)[10, 14:18, 23:25].any()
    lost = (accepted == 1) & (result != 1)
    assert lost.sum() < 0.3 * (accepted == 1).sum()


def test_a_leak_that_touches_a_correction_and_swallows_strokes_of_background_is_not_taken(accepted):
    painted = strokes_in_the_first_organ()
    painted[12, 30, 12:50:2] = 0
    painted[12, 22:24, 26:28] = 1  # a bit more of the first organ
    grown = accepted.copy()
    grown[6:17, 10:38, 10:55] = np.where(accepted[6:17, 10:38, 10:55] == 2, 2, 1)
    grown[painted == 0] = 0
    result = near_corrections(accepted, grown, painted)
    assert (result[12, 22:24, 26:28] == 1).all()
    assert (result != accepted).sum() < 0.3 * (grown != accepted).sum()


def test_a_leak_beside_which_strokes_end_still_goes(accepted):
    """Strokes of the organ that come near the leak are no reason to keep it."""
    painted = strokes_in_the_first_organ()
    painted[11, 17, 24] = 1  # where the leak begins
    painted[10:12, 17:19, 44:46] = 0
    grown = accepted.copy()
    grown[10:12, 17:19, 25:50] = 0
    assert not near_corrections(accepted, grown, painted)[10:12, 17:19, 26:50].any()
