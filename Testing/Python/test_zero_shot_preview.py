"""The first look: shipped prompts and strokes, before any tuning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from harness.tiny_model import BACKGROUND, CLASSES, example, tiny_backbone
from PromptSegLib.annotation.classes import describe
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.inference.options import SegmentationOptions
from PromptSegLib.inference.zero_shot_preview import _known, zero_shot_preview
from PromptSegLib.models.matching import assign_one_to_one

INFOS = [describe(name, value) for name, value in CLASSES.items()]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("models"), shipped=True)


def test_each_class_takes_the_shipped_class_it_agrees_with_most():
    strokes = np.full((4, 4, 6), -1, np.int16)
    strokes[0, 0], strokes[1, 1], strokes[2, 2] = 0, 1, 2
    scores = np.full((3, 4, 4, 6), -5, np.float16)
    scores[2][1, 1] = 5  # the third shipped class is the first painted one
    scores[0][3, 3] = 5  # the first is somewhere else
    assert _known(scores, strokes, 2) == {1: 3}


def test_a_shipped_class_is_taken_once():
    strokes = np.full((2, 4, 4), -1, np.int16)
    strokes[0, 0], strokes[0, 1] = 1, 2
    scores = np.full((1, 2, 4, 4), -5, np.float16)
    scores[0][0, :2] = 5
    assert list(_known(scores, strokes, 2).values()) == [1]


def test_strokes_are_honored_and_the_rest_lies_on_the_images_grid(backbone):
    case = example()
    result = zero_shot_preview(backbone, case, INFOS)
    assert Grid.of(result.labels).same_as(Grid.of(case.image))
    labels, painted = sitk.GetArrayFromImage(result.labels), sitk.GetArrayFromImage(case.annotation)
    for value in CLASSES.values():
        assert (labels[painted == value] == value).all()
        assert (labels == value).sum() > (painted == value).sum()
    assert (labels[painted == BACKGROUND] == 0).all()
    assert set(np.unique(labels)) <= {0, *CLASSES.values()}


def test_a_look_around_the_strokes_covers_a_part(backbone):
    case = example(shape=(20, 40, 150))
    result = zero_shot_preview(backbone, case, INFOS, options=SegmentationOptions(around=10.0))
    assert result.labels.GetSize()[0] < 150


def test_there_is_no_look_without_shipped_prompts_or_strokes(backbone):
    case = example()
    assert zero_shot_preview(replace(backbone, shipped=None), case, INFOS) is None
    empty = case.annotation * 0
    assert zero_shot_preview(backbone, replace(case, annotation=empty), INFOS) is None


def test_pairs_are_matched_best_first_and_each_shipped_class_once():
    assert assign_one_to_one(np.array([[0.9, 0.6, 0.0], [0.95, 0.7, 0.0], [0.0, 0.0, 0.49]])) == {1: 0, 0: 1}
    assert assign_one_to_one(np.zeros((2, 3))) == {}
