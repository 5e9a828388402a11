"""Simulated users on a phantom: two large organs, a thin one and a small one in a body."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from PromptSegLib.errors import PromptSegError
from PromptSegLib.evaluation.scribbles import correct, scribble

CLASSES = {"liver": 6, "kidney": 2, "vessel": 8, "gland": 12}
OTHER = 9  # in the reference, but no class: background
BACKGROUND = 200


def phantom(spacing=(2.0, 2.0, 4.0), shape=(48, 80, 80)) -> np.ndarray:
    z, y, x = np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing[::-1])], indexing="ij")

    def ellipsoid(center, radii):
        return sum(((axis - c) / r) ** 2 for axis, c, r in zip((z, y, x), center, radii)) <= 1

    labels = np.zeros(shape, np.uint8)
    labels[ellipsoid((100, 70, 50), (50, 35, 30))] = 6
    labels[ellipsoid((80, 100, 115), (40, 18, 14))] = 2
    labels[ellipsoid((90, 80, 95), (10, 5, 5))] = 12
    labels[(np.hypot(y - 115, x - 80 - 5 * np.sin(z / 20)) < 7) & (z < 180)] = 8
    labels[ellipsoid((100, 40, 115), (40, 15, 20))] = OTHER
    return labels


def volume(array: np.ndarray, spacing=(2.0, 2.0, 4.0)) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(spacing)
    return image


def strictly_inside(stroke: np.ndarray, mask: np.ndarray) -> bool:
    """Whether every voxel's in-plane neighbors lie in the mask."""
    return not (stroke & ~ndimage.binary_erosion(mask, np.ones((1, 3, 3)))).any()


@pytest.fixture(scope="module")
def truth():
    return phantom()


@pytest.fixture(scope="module")
def drawn(truth):
    return sitk.GetArrayFromImage(scribble(volume(truth), CLASSES, BACKGROUND))


def test_every_class_is_drawn_strictly_inside_on_three_slices(truth, drawn):
    assert drawn.dtype == np.uint8
    assert set(np.unique(drawn)) == {0, BACKGROUND, *CLASSES.values()}
    for value in CLASSES.values():
        stroke = drawn == value
        assert strictly_inside(stroke, truth == value)
        slices = np.flatnonzero(stroke.any((1, 2)))
        assert len(slices) == 3
        extent = np.flatnonzero((truth == value).any((1, 2)))
        assert np.ptp(slices) > 0.3 * np.ptp(extent)
        for index in slices:  # one stroke, and no filled slice
            assert ndimage.label(stroke[index], np.ones((3, 3)))[1] == 1
            assert stroke[index].sum() < 0.5 * (truth[index] == value).sum()


def test_background_is_outside_every_class(truth, drawn):
    background = drawn == BACKGROUND
    inside = np.isin(truth, list(CLASSES.values()))
    assert strictly_inside(background, ~inside)
    assert len(np.flatnonzero(background.any((1, 2)))) >= 2


def test_share_and_thinness(drawn):
    assert 0.002 < (drawn > 0).mean() < 0.006
    # No place where a 4 x 4 block is painted: strokes are two voxels wide, also where they bend.
    liver = drawn == CLASSES["liver"]
    assert not ndimage.binary_erosion(liver, np.ones((1, 4, 4))).any()


def test_seed_decides_everything(truth, drawn):
    again = sitk.GetArrayFromImage(scribble(volume(truth), CLASSES, BACKGROUND))
    assert (again == drawn).all()
    other = sitk.GetArrayFromImage(scribble(volume(truth), CLASSES, BACKGROUND, seed=1))
    assert (other != drawn).any()
    alone = sitk.GetArrayFromImage(scribble(volume(truth), {"kidney": 2}, BACKGROUND))
    assert ((alone == 2) == (drawn == 2)).all()


def test_options(truth):
    thin = sitk.GetArrayFromImage(
        scribble(volume(truth), CLASSES, BACKGROUND, slices_per_class=1, width=1, background_share=0)
    )
    assert not (thin == BACKGROUND).any()
    for value in CLASSES.values():
        assert len(np.flatnonzero((thin == value).any((1, 2)))) == 1


@pytest.mark.parametrize("order, flips", [((2, 0, 1), (1, 0, 0)), ((1, 2, 0), (0, 1, 0)), ((0, 1, 2), (0, 0, 1))])
def test_slices_are_axial_whatever_the_orientation(truth, order, flips):
    """The same phantom stored with its axes permuted and flipped: strokes stay on axial slices."""
    upright = volume(truth)
    image = sitk.Flip(sitk.PermuteAxes(upright, order), [bool(flip) for flip in flips])
    scribbles = scribble(image, CLASSES, BACKGROUND)
    assert scribbles.GetDirection() == image.GetDirection() and scribbles.GetOrigin() == image.GetOrigin()
    array = sitk.GetArrayFromImage(scribbles)
    axial = 2 - order.index(2)
    others = tuple(axis for axis in range(3) if axis != axial)
    for value in CLASSES.values():
        assert len(np.flatnonzero((array == value).any(others))) == 3


def test_a_tilted_volume_is_sliced_along_its_nearest_axis(truth):
    image = volume(truth)
    angle = np.deg2rad(20)
    image.SetDirection((1, 0, 0, 0, np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle)))
    array = sitk.GetArrayFromImage(scribble(image, CLASSES, BACKGROUND))
    assert all(len(np.flatnonzero((array == value).any((1, 2)))) == 3 for value in CLASSES.values())


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 12, 12), (2, 3, 3), (40, 1, 9), (5, 6, 30)])
@pytest.mark.parametrize("spacing", [(0.1, 0.1, 0.1), (5.0, 0.5, 8.0)])
def test_tiny_volumes_and_structures(shape, spacing):
    """Anything that has a voxel of a class can be drawn, in the class and nowhere else."""
    for everything in (False, True):
        array = np.zeros(shape, np.uint8)
        array[tuple(slice(n // 2, None) for n in shape)] = 1
        array[:] |= everything
        annotated = sitk.GetArrayFromImage(scribble(volume(array, spacing), {"it": 1}, 2, background_share=0.1))
        assert (annotated == 1).any() and (array[annotated == 1] == 1).all()
        assert (array[annotated == 2] == 0).all()
        wrong = volume(1 - array, spacing)
        blank = volume(np.zeros_like(array), spacing)
        corrected = sitk.GetArrayFromImage(correct(volume(array, spacing), blank, wrong, {"it": 1}, 2))
        assert corrected.any() and (array[corrected == 1] == 1).all() and (array[corrected == 2] == 0).all()


def test_unusable_input_is_refused(truth):
    with pytest.raises(PromptSegError, match="none of the classes"):
        scribble(volume(truth), {"spleen": 77}, BACKGROUND)
    with pytest.raises(PromptSegError, match="also a class"):
        scribble(volume(truth), CLASSES, 6)
    for background in (0, 256):
        with pytest.raises(PromptSegError, match="background"):
            scribble(volume(truth), CLASSES, background)
    with pytest.raises(PromptSegError, match="integer"):
        scribble(sitk.Cast(volume(truth), sitk.sitkFloat32), CLASSES, BACKGROUND)


def test_correct_draws_the_true_value_where_most_is_wrong(truth, drawn):
    image, annotation = volume(truth), volume(drawn)
    prediction = np.where(truth == OTHER, 0, truth)
    prediction[:, :, :20] = 0  # liver missing: the smaller error
    prediction[truth == OTHER] = CLASSES["kidney"]  # overflow: the larger one
    corrected = sitk.GetArrayFromImage(correct(image, annotation, volume(prediction), CLASSES, BACKGROUND))
    added = corrected != drawn
    assert added.any() and (drawn[added] == 0).all()
    assert (corrected[added] == BACKGROUND).all() and (truth[added] == OTHER).all()
    assert len(np.flatnonzero(added.any((1, 2)))) == 1

    prediction[truth == OTHER] = 0
    corrected = sitk.GetArrayFromImage(correct(image, annotation, volume(prediction), CLASSES, BACKGROUND))
    added = corrected != drawn
    assert (corrected[added] == CLASSES["liver"]).all()
    assert (truth[added] == CLASSES["liver"]).all() and (prediction[added] == 0).all()
    same = correct(image, annotation, volume(prediction), CLASSES, BACKGROUND)
    assert (sitk.GetArrayFromImage(same) == corrected).all()


def test_correct_prefers_a_lump_to_a_wide_rim(truth):
    liver = truth == CLASSES["liver"]
    prediction = np.where(ndimage.binary_dilation(liver, np.ones((1, 3, 3))), 6, truth)  # a rim of one voxel, large
    prediction[truth == CLASSES["gland"]] = 0
    rim = (prediction == 6) & ~liver
    assert rim.sum() > (truth == CLASSES["gland"]).sum()
    blank = volume(np.zeros_like(truth))
    array = sitk.GetArrayFromImage(correct(volume(truth), blank, volume(prediction), CLASSES, BACKGROUND))
    assert set(np.unique(array)) == {0, CLASSES["gland"]}


def test_correct_leaves_a_perfect_result_alone(truth, drawn):
    corrected = correct(volume(truth), volume(drawn), volume(truth), CLASSES, BACKGROUND)
    assert (sitk.GetArrayFromImage(corrected) == drawn).all()


def test_corrections_go_on_until_nothing_is_wrong():
    """Each correction adds voxels, even if the prediction never learns."""
    array = np.zeros((6, 12, 12), np.uint8)
    array[1:5, 3:9, 3:9] = 1
    blank = volume(np.zeros_like(array))
    annotation, counts = blank, [0]
    for _ in itertools.repeat(None, 200):
        annotation = correct(volume(array), annotation, blank, {"it": 1}, 2)
        counts.append(int((sitk.GetArrayFromImage(annotation) > 0).sum()))
        if counts[-1] == counts[-2]:
            break
    assert counts[-1] == array.sum() and (np.diff(counts[:-1]) > 0).all()


def test_correct_refuses_other_grids(truth, drawn):
    for moved in range(2):
        volumes = [volume(drawn), volume(truth)]
        volumes[moved].SetOrigin((1, 0, 0))
        with pytest.raises(PromptSegError, match="another grid"):
            correct(volume(truth), *volumes, CLASSES, BACKGROUND)
