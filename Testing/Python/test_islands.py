"""Small parts of organs that are one body: which go, what takes their place, and that the evidence stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from harness.tiny_model import phantom, tiny_backbone
from PromptSegLib.annotation.classes import is_one_body
from PromptSegLib.inference import field_of_view
from PromptSegLib.inference.islands import small_components_suppressed
from PromptSegLib.inference.options import SegmentationOptions
from PromptSegLib.inference.resample_to_image import winner
from PromptSegLib.inference.segmenting import segment

LARGE, SMALL, MIDDLE = np.s_[2:10, 2:10, 2:10], np.s_[14:18, 14:18, 14:18], np.s_[2:8, 14:20, 14:20]


@pytest.fixture
def scores() -> np.ndarray:
    """Two classes; the first has parts of 512, 216 and 64 voxels, and the second is next best in the last of them."""
    values = np.full((2, 20, 24, 24), -5, np.float16)
    for part in (LARGE, SMALL, MIDDLE):
        values[0][part] = 5
    values[1][SMALL] = 3
    values[1, 12, 2:8, 2:8] = 4
    return values


def test_small_parts_go_to_the_next_best_class(scores):
    before = scores.copy()
    with small_components_suppressed(scores, [0], 0.2):
        best = winner(scores)
    assert (best[LARGE] == 1).all() and (best[MIDDLE] == 1).all() and (best[SMALL] == 2).all()
    assert np.array_equal(scores, before)


@pytest.mark.parametrize(
    "share, kept", [(0.0, (True, True)), (0.12, (True, True)), (0.3, (True, False)), (1, (False,) * 2)]
)
def test_the_share_is_of_the_largest_part(scores, share, kept):
    with small_components_suppressed(scores, [0], share):
        best = winner(scores)
    assert (bool((best[MIDDLE] == 1).all()), bool((best[SMALL] == 1).all())) == kept
    assert (best[LARGE] == 1).all()


def test_other_classes_and_absent_ones_are_left_alone(scores):
    with small_components_suppressed(scores, [1], 1.0):
        assert (winner(scores)[SMALL] == 1).all()
    with small_components_suppressed(np.full((1, 4, 4, 4), -1, np.float16), [0]):
        pass


def test_the_evidence_is_put_back_after_an_error(scores):
    before = scores.copy()
    with pytest.raises(KeyError), small_components_suppressed(scores, [0]):
        raise KeyError
    assert np.array_equal(scores, before)


def test_parts_touch_by_their_corners():
    values = np.full((1, 6, 6, 6), -1, np.float16)
    values[0, :3, :3, :3] = 1
    values[0, 3, 3, 3] = 1
    with small_components_suppressed(values, [0]):
        assert winner(values)[3, 3, 3] == 1


def test_only_known_organs_are_one_body():
    assert is_one_body("liver") and is_one_body("Left_Kidney") and is_one_body("oesophagus")
    assert not is_one_body("metastasis") and not is_one_body("lesion")


@pytest.mark.parametrize("keep", [False, True])
def test_segmenting_without_strokes(tmp_path, monkeypatch, keep):
    """Of the shipped liver a far part goes; a class that nobody knows keeps all of its."""
    backbone = tiny_backbone(tmp_path, shipped=True)
    image, _ = phantom()

    def class_margins(backbone, prompts, array, *arguments, **settings):
        values = np.full((3, *array.shape), -5, np.float16)
        for row in (0, 2):
            values[row, 2:6, 2 + 16 * (row > 0) : 12 + 16 * (row > 0), 2:20] = 5
            values[row, 9:11, 2 + 16 * (row > 0) : 5 + 16 * (row > 0), 25:28] = 5
        return values

    monkeypatch.setattr(field_of_view, "class_margins", class_margins)
    prompts = backbone.shipped.renamed({"aorta": "lesion"})
    result = segment(prompts, image, backbone, options=SegmentationOptions(keep_islands=keep))
    parts = {}
    for info in result.classes:
        mask = sitk.Equal(result.labels, info.value)
        parts[info.name] = int(sitk.GetArrayFromImage(sitk.ConnectedComponent(mask, True)).max())
    assert parts["liver"] == (2 if keep else 1)
    assert parts["lesion"] == 2
