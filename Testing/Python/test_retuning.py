"""Corrections never make it worse: what was accepted and not touched stays, in growing and in retuning."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from harness.tiny_model import BACKGROUND, CLASSES, example, phantom
from PromptSegLib.annotation.classes import describe
from PromptSegLib.annotation.example import Example
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.inference.result import Segmentation
from PromptSegLib.inference.retuning import retuned
from PromptSegLib.inference.stroke_regions import segment_strokes
from PromptSegLib.session.applying import ADDED, REMOVED, with_differences

pytestmark = pytest.mark.usefixtures("brisk_growing")

INFOS = tuple(describe(name, value) for name, value in CLASSES.items())
NOT = {name: 60 + value for name, value in CLASSES.items()}  # values of what was erased
BARRED = {NOT[name]: value for name, value in CLASSES.items()}
FALL = 0.01  # of Dice in a round


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / max(one.sum() + other.sum(), 1)


def image_like(array: np.ndarray, like: sitk.Image) -> sitk.Image:
    return Grid.of(like).image(array.astype(np.uint8))


# What is kept of a retuning


@pytest.fixture
def case() -> Example:
    return example()


def reference_of(case: Example) -> np.ndarray:
    _image, reference = phantom()
    return np.where(
        np.isin(sitk.GetArrayFromImage(reference), list(CLASSES.values())), sitk.GetArrayFromImage(reference), 0
    )


def erased(case: Example, where: tuple, name: str) -> Example:
    strokes = sitk.GetArrayFromImage(case.annotation)
    strokes[where] = NOT[name]
    return Example(case.image, image_like(strokes, case.annotation), BACKGROUND, excluded=BARRED)


def a_bit_of(mask: np.ndarray) -> tuple:
    """A small box at the border of a mask."""
    z = int(np.median(np.nonzero(mask)[0]))
    y = int(np.nonzero(mask[z])[0].min())
    x = int(np.median(np.nonzero(mask[z, y])[0]))
    return slice(z, z + 1), slice(y, y + 2), slice(x, x + 2)


def test_a_collapse_is_left_out_and_can_be_looked_at(case):
    accepted = reference_of(case)
    ball, rod = CLASSES["ball"], CLASSES["rod"]
    where = a_bit_of(accepted == ball)
    collapsed = np.where(accepted == ball, 0, accepted)
    collapsed[:3, :3, :3] = rod
    result = Segmentation(image_like(collapsed, case.image), INFOS, notes=("A word.",))
    both = retuned(result, erased(case, where, "ball"), image_like(accepted, case.image), ["ball", "rod"])
    local = sitk.GetArrayFromImage(both.shown.labels)
    assert not (local[where] == ball).any()
    assert dice(local == ball, accepted == ball) > 0.85
    assert np.array_equal(local == rod, accepted == rod)
    assert both.other is result.labels and both.keeps
    assert both.shown.notes[0] == "A word." and "uncheck Keep previous" in both.shown.notes[1]


def test_what_is_hardly_different_elsewhere_is_no_choice(case):
    accepted = reference_of(case)
    where = a_bit_of(accepted == CLASSES["ball"])
    now = accepted.copy()
    now[where] = 0
    now[0, 0, 0] = CLASSES["rod"]  # one voxel, far away
    both = retuned(
        Segmentation(image_like(now, case.image), INFOS),
        erased(case, where, "ball"),
        image_like(accepted, case.image),
        list(CLASSES),
    )
    local = sitk.GetArrayFromImage(both.shown.labels)
    assert both.other is None and not both.shown.notes
    assert local[0, 0, 0] == 0 and not local[where].any()


def test_without_a_correction_the_new_is_shown_and_the_old_is_the_choice(case):
    """Whoever retunes a result that says what was painted wants to see what the prompts make of it now."""
    accepted = reference_of(case)
    less = np.where(accepted == CLASSES["ball"], 0, accepted)
    strokes = sitk.GetArrayFromImage(case.annotation)
    less[strokes == CLASSES["ball"]] = CLASSES["ball"]
    result = Segmentation(image_like(less, case.image), INFOS)
    both = retuned(result, case, image_like(accepted, case.image), ["ball", "rod"])
    assert not both.keeps and both.shown.labels is result.labels
    assert np.array_equal(sitk.GetArrayFromImage(both.other), accepted)
    assert "check Keep previous" in both.shown.notes[0]


def test_a_new_structure_is_not_cut_to_what_was_painted_of_it(case):
    """Nothing of it was accepted; it takes nothing from what was."""
    full = reference_of(case)
    full[:2, :4, :4] = CLASSES["rod"]  # a second part, in which nothing is painted
    accepted = np.where(full == CLASSES["ball"], full, 0)
    both = retuned(
        Segmentation(image_like(full, case.image), INFOS), case, image_like(accepted, case.image), list(CLASSES)
    )
    assert both.keeps and np.array_equal(sitk.GetArrayFromImage(both.shown.labels), full)


def test_what_is_added_and_removed_is_seen(case):
    before, after = reference_of(case), reference_of(case)
    after[before == CLASSES["ball"]] = 0
    after[:2] = CLASSES["rod"]
    shown = with_differences(Segmentation(image_like(after, case.image), INFOS), image_like(before, case.image))
    values = {info.name: info.value for info in shown.classes}
    labels = sitk.GetArrayFromImage(shown.labels)
    assert np.array_equal(labels == values[REMOVED], (before > 0) & (after == 0))
    assert np.array_equal(labels == values[ADDED], (after > 0) & (before != after))
    assert np.array_equal(labels == CLASSES["rod"], (after == CLASSES["rod"]) & (before == after))


# Rounds of a user who corrects the largest mistake


def mistakes(labels: np.ndarray, truth: np.ndarray, value: int, too_much: bool) -> np.ndarray:
    """On the slice with most of them: what of a class is too much, or missing."""
    wrong = (labels == value) & (truth != value) if too_much else (labels != value) & (truth == value)
    only = np.zeros_like(wrong)
    at = int(wrong.sum((1, 2)).argmax())
    only[at] = wrong[at]
    return only


def damaged(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A result with a leak and a bite in each structure, as a network makes them."""
    labels = truth.copy()
    for value in CLASSES.values():
        places = np.argwhere(truth == value)
        z, y, x = places[rng.integers(len(places))]
        labels[max(z - 3, 0) : z + 3, max(y - 3, 0) : y + 3, max(x - 3, 0) : x + 3] = 0
        z, y, x = places[places[:, 2].argmax()]
        free = labels[z - 2 : z + 2, y - 2 : y + 2, x : x + 7] == 0
        labels[z - 2 : z + 2, y - 2 : y + 2, x : x + 7][free] = value
    return labels


@pytest.mark.parametrize("mode", ["paint", "erase", "mixed"])
def test_no_round_of_corrections_makes_it_worse(mode):
    image, reference = phantom(seed=11)
    truth = np.where(
        np.isin(sitk.GetArrayFromImage(reference), list(CLASSES.values())), sitk.GetArrayFromImage(reference), 0
    )
    strokes = sitk.GetArrayFromImage(example(seed=11).annotation)
    accepted = damaged(truth, np.random.default_rng(4))
    first = {name: dice(accepted == value, truth == value) for name, value in CLASSES.items()}
    scores = dict(first)
    for number in range(2):
        for name, value in CLASSES.items():
            if mode == "paint" or (mode == "mixed" and number == 0):
                strokes[mistakes(accepted, truth, value, too_much=False)] = value
            if mode == "erase" or (mode == "mixed" and number == 1):
                strokes[mistakes(accepted, truth, value, too_much=True)] = NOT[name]
        corrected = Example(image, image_like(strokes, image), BACKGROUND, excluded=BARRED)
        before = image_like(accepted, image)
        accepted = sitk.GetArrayFromImage(segment_strokes(corrected, INFOS, quick=True, accepted=before).labels)
        for name, value in CLASSES.items():
            now = dice(accepted == value, truth == value)
            assert now > scores[name] - FALL, (mode, number, name)
            scores[name] = now
    assert sum(scores.values()) > sum(first.values()) + 0.01  # and it is of use
