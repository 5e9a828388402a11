"""What the growing network is shown: independent of units, of spacing, and of everything but what was painted."""

from __future__ import annotations

import numpy as np
import pytest

from PromptSegLib.growing.inputs import CHANNELS, Ground, question, robust_limits


def scene(count: int = 2):
    rng = np.random.default_rng(0)
    array = rng.normal(0, 5, (20, 30, 34)).astype(np.float32)
    strokes = np.full(array.shape, -1, np.int16)
    for index in range(1, count + 1):
        array[5:15, 5:25, 4 + 10 * (index - 1) : 12 + 10 * (index - 1)] += 60 * index
        strokes[10, 10:20, 8 + 10 * (index - 1)] = index
    strokes[10, 2, 2:30] = 0
    return array, strokes


@pytest.mark.parametrize("change", [lambda a: a * 8, lambda a: a - 1024, lambda a: a / 255 + 3])
def test_another_unit_of_intensity_changes_next_to_nothing(change):
    array, strokes = scene()
    one = question(Ground.of(array, strokes, (2.0, 1.0, 1.0)), 1)
    two = question(Ground.of(change(array), strokes, (2.0, 1.0, 1.0)), 1)
    assert one.shape == (CHANNELS, *array.shape) and np.isfinite(one).all()
    assert np.abs(one - two).mean() < 0.01


def test_another_unit_of_length_changes_nothing():
    array, strokes = scene()
    one, two = (question(Ground.of(array, strokes, spacing), 1) for spacing in ((2.0, 1.0, 1.0), (0.2, 0.1, 0.1)))
    assert np.allclose(one, two, atol=1e-5)


def test_strokes_of_the_class_and_of_others_are_told_apart():
    array, strokes = scene()
    asked = question(Ground.of(array, strokes, (1.0, 1.0, 1.0)), 2)
    assert (asked[3][strokes == 2] == 1).all() and (asked[3][strokes == 1] == -1).all()
    assert (asked[3][strokes == 0] == -1).all() and (asked[3][strokes == -1] == 0).all()


def test_what_was_erased_of_a_class_counts_against_that_class_alone():
    array, strokes = scene()
    strokes[12, 12, 8] = -2  # anything but the first class
    ground = Ground.of(array, strokes, (1.0, 1.0, 1.0))
    assert question(ground, 1)[3][12, 12, 8] == -1 and question(ground, 2)[3][12, 12, 8] == 0


def test_evidence_is_shown_and_its_absence_too():
    array, strokes = scene()
    ground = Ground.of(array, strokes, (1.0, 1.0, 1.0))
    shown, hidden = question(ground, 1, np.full(array.shape, 0.75, np.float32)), question(ground, 1)
    assert (shown[9] == 0.5).all() and (shown[10] == 1).all()
    assert (hidden[9:] == 0).all()


@pytest.mark.parametrize("array", [np.zeros((3, 4, 5)), np.full((3, 4, 5), -7.5)])
def test_a_constant_image_has_a_range(array):
    low, high = robust_limits(array)
    assert high > low


def test_a_class_of_a_single_voxel_and_a_lone_class_can_be_asked_for():
    array, strokes = scene(1)
    strokes[strokes == 0] = -1
    strokes[strokes == 1] = -1
    strokes[10, 10, 8] = 1
    assert np.isfinite(question(Ground.of(array, strokes, (1.0, 1.0, 1.0)), 1)).all()
