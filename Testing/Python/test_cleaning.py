"""Clean-up of a result: what goes, what stays, and that no class takes the voxels of another."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.inference.cleaning import clean
from PromptSegLib.worker.packing import grid_of, packed_labels

SPACING = (0.8, 1.5, 2.0)


def labeled(array, spacing=SPACING) -> sitk.Image:
    array = np.asarray(array, np.uint8)
    x, y, z = array.shape[::-1]
    direction = (0.0, -1, 0, 1, 0, 0, 0, 0, 1)
    return Grid((x, y, z), spacing, (-7.0, 30.0, 111.0), direction).image(array)


def cleaned(array, values=(1,), **choices) -> np.ndarray:
    image = labeled(array)
    result = clean(image, values, **choices)
    assert Grid.of(result) == Grid.of(image) and result.GetPixelID() == image.GetPixelID()
    return sitk.GetArrayFromImage(result)


def ball(shape, center, radius) -> np.ndarray:
    """Radius in mm."""
    steps = [(np.arange(extent) - at) * step for extent, at, step in zip(shape, center, SPACING[::-1])]
    z, y, x = np.meshgrid(*steps, indexing="ij")
    return z**2 + y**2 + x**2 <= radius**2


def parts() -> np.ndarray:
    """A large component, one that touches it only by a corner, and two small ones."""
    array = np.zeros((8, 10, 12), np.uint8)
    array[1:5, 1:5, 1:5] = 1
    array[5, 5, 5] = 1
    array[6, 8, 8:11] = 1
    array[1, 8, 10] = 1
    return array


def test_without_a_choice_nothing_happens():
    image = labeled(parts())
    assert clean(image, [1]) is image


def test_the_largest_component_stays():
    array = parts()
    expected = array.copy()
    expected[6, 8], expected[1, 8] = 0, 0
    assert np.array_equal(cleaned(array, largest=True), expected)
    assert not cleaned(np.zeros((4, 4, 4)), largest=True).any()


def test_a_small_component_with_a_stroke_stays():
    array, strokes = parts(), np.zeros((8, 10, 12), np.uint16)
    strokes[6, 8, 9] = 1
    strokes[1, 8, 10] = 2  # of another class
    expected = array.copy()
    expected[1, 8, 10] = 0
    assert np.array_equal(cleaned(array, largest=True, painted=strokes), expected)


def test_each_value_has_its_own_largest_component():
    array = parts()
    array[array == 1] = 3
    array[6, 8, 8:11] = 1
    expected = array.copy()
    expected[1, 8, 10] = 0
    assert np.array_equal(cleaned(array, (1, 3), largest=True), expected)
    # Values that are not asked for stay as they are.
    assert np.array_equal(cleaned(array, (1,), largest=True), array)


def hollow() -> np.ndarray:
    """A box with a closed cavity, in which another class has one voxel, and a tunnel to the outside."""
    array = np.zeros((9, 9, 11), np.uint8)
    array[1:8, 1:8, 1:10] = 1
    array[3:5, 3:5, 3:5] = 0
    array[3, 3, 3] = 2
    array[6, 6, 5:] = 0
    return array


def test_cavities_are_filled_but_not_what_is_open_or_another_class():
    array = hollow()
    expected = array.copy()
    expected[3:5, 3:5, 3:5] = 1
    expected[3, 3, 3] = 2
    assert np.array_equal(cleaned(array, (1, 2), fill=True), expected)


def test_a_cavity_that_reaches_the_border_of_a_cropped_result_is_open():
    array = np.ones((5, 5, 5), np.uint8)
    array[2, 2, 1:] = 0
    assert np.array_equal(cleaned(array, fill=True), array)
    array[2, 2, 4] = 1
    assert cleaned(array, fill=True).all()


def test_what_is_known_to_be_something_else_is_not_filled():
    array = hollow()
    erased = np.zeros(array.shape, bool)
    erased[4, 4, 3:5] = True
    result = cleaned(array, (1, 2), fill=True, never={1: erased})
    assert (result[erased] == 0).all()
    assert result[3, 4, 4] == 1 and result[3, 3, 3] == 2
    # For another class it says nothing, and what was there stays.
    assert (cleaned(array, (1, 2), fill=True, never={2: erased})[erased] == 1).all()
    assert np.array_equal(cleaned(array, (1, 2), fill=True, never={1: np.ones(array.shape, bool)}), array)


def test_smoothing_takes_spikes_and_fills_dents():
    array = np.zeros((14, 20, 26), np.uint8)
    array[3:11, 4:16, 5:21] = 1
    array[7, 10, 21:25] = 1  # a spike, one voxel wide
    array[7, 4, 13] = 0  # a dent
    result = cleaned(array, smooth=1.5)
    assert not result[7, 10, 22:].any()
    assert result[7, 4, 13] == 1
    assert result[4:10, 6:14, 8:18].all()
    assert abs(int(result.sum()) - int(array.sum())) < 0.1 * array.sum()


@pytest.mark.parametrize("smooth", [0.4, 1.0, 3.0, 12.0])
def test_smoothing_does_not_depend_on_how_the_result_was_cropped(smooth):
    shape = (16, 22, 30)
    array = ball(shape, (7, 10, 14), 9).astype(np.uint8)
    array[ball(shape, (7, 17, 22), 5)] = 2
    whole = labeled(array)
    grid, voxels = packed_labels(whole)  # cropped to what is not 0, so that it touches all borders
    assert voxels.size < array.size / 2
    part = grid_of(grid).image(voxels)
    one, other = clean(whole, [1, 2], smooth=smooth), clean(part, [1, 2], smooth=smooth)
    low = np.array(whole.TransformPhysicalPointToIndex(part.GetOrigin()))[::-1]
    inside = tuple(slice(at, at + extent) for at, extent in zip(low, voxels.shape))
    beyond = sitk.GetArrayFromImage(one)
    assert np.array_equal(sitk.GetArrayFromImage(other), beyond[inside])
    beyond[inside] = 0
    assert not beyond.any()  # a convex outline does not grow


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 9), (2, 2, 2), (9, 1, 3), (3, 3, 3)])
def test_very_small_results_can_be_smoothed(shape):
    result = cleaned(np.ones(shape), largest=True, fill=True, smooth=0.3)
    assert result.any()
    strokes = np.zeros(shape, np.uint8)
    strokes[-1, -1, -1] = 1
    assert cleaned(np.ones(shape), smooth=50.0, painted=strokes).sum() == 1  # all but the stroke is smoothed away


def test_smoothed_classes_never_take_each_others_voxels():
    rng = np.random.default_rng(4)
    array = np.kron(rng.integers(0, 4, (4, 5, 6)), np.ones((4, 4, 4))).astype(np.uint8)
    for values in ((1, 2, 3), (3, 1, 2)):
        result = cleaned(array, values, largest=True, fill=True, smooth=2.0)
        assert (result != array).any()
        changed = (result != array) & (result != 0)
        # What was another class's before is never taken while that class holds it: only what is free now or was.
        kept = cleaned(array, values[:1], largest=True, fill=True, smooth=2.0)
        others = np.isin(array, values[1:])
        assert np.array_equal(kept[others], array[others])
        assert set(np.unique(result[changed])) <= set(values)


@pytest.mark.parametrize("choices", [{"largest": True}, {"fill": True}, {"smooth": 4.0}])
def test_strokes_stay_whatever_is_cleaned(choices):
    array = parts()
    strokes = np.zeros(array.shape, np.uint16)
    strokes[1, 8, 10] = strokes[6, 8, 10] = 1
    strokes[2, 2, 2] = 2
    strokes[0, 0, :3] = 9  # no value of the result
    result = cleaned(array, (1, 2), painted=strokes, **choices)
    assert result[1, 8, 10] == result[6, 8, 10] == 1 and result[2, 2, 2] == 2
    assert not (result == 9).any()
