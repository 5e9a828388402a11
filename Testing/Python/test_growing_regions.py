"""From strokes to regions: grids, the guard, and what every result keeps to, on any image."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from PromptSegLib.annotation.classes import describe
from PromptSegLib.annotation.example import Example
from PromptSegLib.errors import PromptSegError
from PromptSegLib.growing.grids import domain, working_grid
from PromptSegLib.growing.guard import Verdict, predictions, verdicts_of
from PromptSegLib.growing.inputs import REGION, Ground
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.inference.stroke_regions import segment_strokes
from PromptSegLib.progress import Cancelled, ProgressHandle

WHOLE = (slice(0, 40), slice(0, 60), slice(0, 80))
BACKGROUND = 9


class Answers(torch.nn.Module):
    """A network that says what a function makes of the channels."""

    def __init__(self, answer):
        super().__init__()
        self.weight, self.answer = torch.nn.Parameter(torch.zeros(1)), answer

    def forward(self, questions, steps):
        return self.answer(questions)


PLAIN = Answers(lambda asked: asked[:, REGION : REGION + 1] * 5)
NOTHING = Answers(lambda asked: asked[:, REGION : REGION + 1] * 0 - 5)
EVIDENCE = Answers(lambda asked: torch.where(asked[:, 10:] > 0, asked[:, 9:10], asked[:, REGION : REGION + 1]) * 5)


def case(spacing=(1.0, 1.0, 2.0), kind=np.float32, seed=0):
    """Two boxes in noise, three slices of strokes each, and background around them."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((24, 48, 56), np.uint8)
    truth[5:19, 10:34, 8:26], truth[6:20, 14:38, 30:48] = 1, 2
    array = truth * 120.0 + rng.normal(0, 8, truth.shape) + 200
    strokes = np.zeros_like(truth)
    for z in (8, 12, 16):
        strokes[z, 15:30, 16], strokes[z, 20:32, 38] = 1, 2
        strokes[z, 4, 4:50] = BACKGROUND
        strokes[z, 42, 4:50] = BACKGROUND
    images = [sitk.GetImageFromArray(each) for each in (array.astype(kind), strokes, truth)]
    for image in images:
        image.SetSpacing(spacing)
    return images


def grown(image, strokes, names=("one", "two"), **options):
    infos = [describe(name, value) for value, name in enumerate(names, 1)]
    return segment_strokes(Example(image, strokes, BACKGROUND), infos, **options)


def dice(labels, truth, value):
    one, two = (sitk.GetArrayFromImage(each) == value for each in (labels, truth))
    return 2 * (one & two).sum() / (one.sum() + two.sum())


@pytest.mark.parametrize("most", [1000, 20_000, 500_000])
def test_a_working_grid_keeps_to_its_limit_and_covers_its_box(most):
    native = Grid((80, 60, 40), (0.7, 0.7, 5.0), (1.0, 2.0, 3.0))
    place = working_grid(native, WHOLE, most)
    assert np.prod(place.shape) <= most * 1.2
    assert np.allclose(np.multiply(place.shape, place.spacing), np.multiply(native.size, native.spacing)[::-1])
    assert np.allclose(place.grid.corners(), native.corners(), atol=1e-6)


def test_thick_slices_are_never_divided_nor_merged_before_the_plane_is_as_coarse():
    native = Grid((80, 60, 40), (0.7, 0.7, 5.0), (0.0, 0.0, 0.0))
    assert working_grid(native, WHOLE, 60_000).shape[0] == 40


def test_a_working_grid_at_full_resolution_is_the_image_itself():
    image, _, _ = case()
    place = working_grid(Grid.of(image), (slice(2, 20), slice(3, 30), slice(4, 50)), 10**6)
    assert np.array_equal(place.image(image), sitk.GetArrayFromImage(image)[2:20, 3:30, 4:50])


def test_coarse_voxels_lose_no_stroke():
    native = Grid((80, 60, 40), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    painted = np.full(native.shape, -1, np.int16)
    painted[:20] = 0
    painted[3, 5, 7], painted[10, 20, 30], painted[12, 20, 30] = 1, 2, -3
    coarse = working_grid(native, WHOLE, 3000).strokes(painted)
    assert {-3, -1, 0, 1, 2} == set(np.unique(coarse))


def test_where_growing_takes_place_holds_all_strokes_and_more():
    painted = np.full((40, 60, 80), -1, np.int16)
    painted[20, 20:30, 30:40] = 1
    painted[20, 5, 5:70] = 0
    z, y, x = domain(Grid((80, 60, 40), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), painted)
    assert z.start <= 16 and z.stop >= 25 and y.start <= 5 and y.stop >= 35 and x.start <= 5 and x.stop >= 70
    assert domain(Grid((80, 60, 40), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), np.minimum(painted, 0)) is None


def ground():
    image, strokes, _ = case()
    painted = sitk.GetArrayFromImage(strokes).astype(np.int16)
    painted = np.where(painted == BACKGROUND, 0, np.where(painted > 0, painted, -1)).astype(np.int16)
    return Ground.of(sitk.GetArrayFromImage(image), painted, (2.0, 1.0, 1.0))


def judge(net, ground, evidence, asked):
    """The way for every class that is asked for, as ``grow_regions`` finds it where borders do not decide."""
    return verdicts_of(predictions(net, ground, evidence, dict.fromkeys(asked, tuple(Verdict))), evidence)


def test_what_cannot_predict_a_painted_slice_is_not_trusted():
    assert judge(NOTHING, ground(), {}, (1, 2)) == {1: Verdict.PLAIN, 2: Verdict.PLAIN}
    assert judge(PLAIN, ground(), {}, (1, 2)) == {1: Verdict.LEARNED, 2: Verdict.LEARNED}
    assert judge(NOTHING, ground(), {}, [2]) == {2: Verdict.PLAIN} and judge(NOTHING, ground(), {}, []) == {}


def test_evidence_that_contradicts_the_painted_slices_is_left_out():
    wrong = {1: np.zeros((24, 48, 56), np.float32)}
    assert judge(EVIDENCE, ground(), wrong, (1, 2)) == {1: Verdict.LEARNED_ALONE, 2: Verdict.LEARNED}
    right = {1: np.ones((24, 48, 56), np.float32)}
    right[1][:, 35:] = 0
    assert judge(EVIDENCE, ground(), {1: np.where(ground().grown == 1, 1.0, 0.0)}, [1])[1] is Verdict.LEARNED


def test_a_single_painted_slice_can_contradict_nothing():
    scene = ground()
    scene.strokes[[8, 16]] = -1
    assert judge(NOTHING, scene, {}, (1, 2)) == {1: Verdict.LEARNED, 2: Verdict.LEARNED}


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(("slope", "shift"), [(1, 0), (-1, 1000), (2.5e-4, 0)])
def test_structures_are_found_whatever_the_contrast(slope, shift, quick):
    image, strokes, truth = case()
    changed = sitk.Cast(image * slope + shift, sitk.sitkFloat32)
    labels = grown(changed, strokes, quick=quick).labels
    assert min(dice(labels, truth, value) for value in (1, 2)) > 0.8


@pytest.mark.parametrize("spacing", [(0.05, 0.05, 0.1), (1.0, 1.0, 8.0), (8.0, 8.0, 16.0)])
def test_structures_are_found_whatever_the_spacing(spacing):
    image, strokes, truth = case(spacing)
    labels = grown(image, strokes).labels
    assert min(dice(labels, truth, value) for value in (1, 2)) > 0.75


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float64])
def test_oblique_images_of_any_type_keep_their_geometry(kind):
    image, strokes, truth = case()
    array = np.clip((sitk.GetArrayFromImage(image) - 150) / 2, 0, 255).astype(kind)
    oblique = [sitk.GetImageFromArray(array), strokes, truth]
    turn = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, -1.0)
    for each in oblique:
        each.SetSpacing((1.0, 1.0, 2.0))
        each.SetDirection(turn)
        each.SetOrigin((-100.0, 50.0, 1e4))
    result = grown(oblique[0], strokes).labels
    assert Grid.of(result).same_as(Grid.of(oblique[0]))
    assert min(dice(result, truth, value) for value in (1, 2)) > 0.8


def test_strokes_are_always_honored():
    image, strokes, _ = case()
    array = sitk.GetArrayFromImage(strokes)
    array[12, 20:24, 36] = 1  # in the middle of the other structure
    array[12, 20, 20] = BACKGROUND
    strokes = sitk.GetImageFromArray(array)
    strokes.CopyInformation(image)
    labels = sitk.GetArrayFromImage(grown(image, strokes).labels)
    assert (
        (labels[array == 1] == 1).all() and (labels[array == 2] == 2).all() and (labels[array == BACKGROUND] == 0).all()
    )


@pytest.mark.parametrize("verdict", list(Verdict))
def test_erased_voxels_stay_erased(verdict):
    image, strokes, _ = case()
    array = sitk.GetArrayFromImage(strokes)
    array[6:18, 12:18, 20:25] = 5
    strokes = sitk.GetImageFromArray(array)
    strokes.CopyInformation(image)
    infos = [describe("one", 1), describe("two", 2)]
    example = Example(image, strokes, BACKGROUND, excluded={5: 1})
    labels = sitk.GetArrayFromImage(segment_strokes(example, infos, verdicts=[verdict] * 2).labels)
    assert not (labels[array == 5] == 1).any()


@pytest.mark.parametrize("painted", ["one voxel", "one slice", "sagittal", "no background", "one class"])
def test_little_paint_is_enough_for_an_answer(painted):
    image, strokes, _ = case()
    array = sitk.GetArrayFromImage(strokes)
    if painted == "one voxel":
        array[array > 0] = 0
        array[12, 22, 16], array[12, 26, 38], array[12, 4, 4] = 1, 2, BACKGROUND
    elif painted == "one slice":
        array[[8, 16]] = 0
    elif painted == "sagittal":
        array[array > 0] = 0
        array[7:17, 16, 16], array[8:18, 20, 38], array[4:20, 4, 28] = 1, 2, BACKGROUND
    elif painted == "no background":
        array[array == BACKGROUND] = 0
    else:
        array[array == 2] = 0
    strokes = sitk.GetImageFromArray(array)
    strokes.CopyInformation(image)
    labels = sitk.GetArrayFromImage(grown(image, strokes).labels)
    assert (labels == 1).sum() > 50
    assert painted != "one class" or not (labels == 2).any()


def test_no_class_painted_gives_nothing():
    image, strokes, _ = case()
    only = sitk.Cast(strokes == BACKGROUND, sitk.sitkUInt8) * BACKGROUND
    assert not sitk.GetArrayFromImage(grown(image, only).labels).any()


def test_plain_growing_is_told_in_one_sentence():
    image, strokes, _ = case()
    notes = grown(image, strokes, verdicts=[Verdict.PLAIN, Verdict.LEARNED]).notes
    assert notes == ("Grown as Grow from seeds does, which fits the painted slices or the edges better: one.",)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_images_without_contrast_or_with_nan_are_refused(value):
    image, strokes, _ = case()
    odd = image * 0 + value
    with pytest.raises(PromptSegError):
        grown(odd, strokes)


def test_growing_can_be_cancelled():
    image, strokes, _ = case()
    with pytest.raises(Cancelled):
        grown(image, strokes, job=ProgressHandle(None, lambda: True))
