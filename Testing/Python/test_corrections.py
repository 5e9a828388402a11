"""What a user erases from a result: voxels that are certainly not that class, through the whole library."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import PromptSegLib as ps
from harness.tiny_model import BACKGROUND, CLASSES, example, tiny_backbone
from PromptSegLib.annotation.checking import check_examples
from PromptSegLib.annotation.labels import excluded_label, labels_on_grid
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.tuning.objective import agreement, annotated_loss

pytestmark = pytest.mark.usefixtures("brisk_growing")

NOT_BALL, NOT_ROD = 50, 51
BARRED = {NOT_BALL: CLASSES["ball"], NOT_ROD: CLASSES["rod"]}


def with_erased(*places, value=NOT_BALL):
    """The usual strokes, with boxes (z, y, x slices) that were erased from the ball."""
    base = example()
    array = sitk.GetArrayFromImage(base.annotation)
    for place in places:
        array[place] = value
    annotation = sitk.GetImageFromArray(array)
    annotation.CopyInformation(base.annotation)
    return replace(base, annotation=annotation, excluded=BARRED)


BOX = (slice(9, 11), slice(12, 16), slice(17, 21))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("models"))


def test_labels_say_which_class_it_is_not():
    case = with_erased(BOX)
    labels = labels_on_grid(case, CLASSES, Grid.of(case.image))
    assert (labels[BOX] == excluded_label(1)).all()
    assert set(np.unique(labels)) == {-2, -1, 0, 1, 2}
    # Of a class that is not asked for, it says nothing.
    alone = labels_on_grid(case, {"rod": CLASSES["rod"]}, Grid.of(case.image))
    assert set(np.unique(alone)) == {-1, 0, 1}


def test_thin_erasures_survive_a_coarser_grid():
    case = with_erased((slice(9, 10), slice(13, 14), slice(18, 20)))
    fine = Grid.of(case.image)
    coarse = Grid(tuple(-(-n // 2) for n in fine.size), tuple(2 * step for step in fine.spacing), fine.origin)
    labels = labels_on_grid(case, CLASSES, coarse)
    assert (labels == excluded_label(1)).any()
    assert set(np.unique(labels)) <= {-2, -1, 0, 1, 2}


def test_a_class_over_an_erasure_and_both_over_background():
    base = example()
    array = np.zeros((1, 2, 4), np.uint8)
    array[0, 0] = [CLASSES["ball"], NOT_ROD, NOT_BALL, BACKGROUND]
    annotation = sitk.GetImageFromArray(array)
    one = Grid((1, 1, 1), (4.0, 2.0, 1.0), (1.5, 0.5, 0.0))
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(2, 2, 4)).astype(np.float32))
    case = replace(base, image=image, annotation=annotation, excluded=BARRED)
    # The nearest annotation voxel decides first, so the middle two must be unknown for a vote.
    array[0, 0, 1:3] = 0
    array[0, 1] = [NOT_ROD, 0, 0, BACKGROUND]
    annotation = sitk.GetImageFromArray(array)
    for wanted, row in ((1, 0), (excluded_label(2), 1)):
        cut = sitk.GetImageFromArray(array[:, row : row + 1])
        grid = Grid((1, 1, 1), (4.0, 1.0, 1.0), (1.6, 0.0, 0.0))
        assert labels_on_grid(replace(case, annotation=cut), CLASSES, grid).item() == wanted, one


def test_an_erasure_counts_as_the_other_side_of_a_boundary():
    base = with_erased(BOX)
    array = sitk.GetArrayFromImage(base.annotation)
    array[(array != CLASSES["ball"]) & (array != NOT_BALL)] = 0
    annotation = sitk.GetImageFromArray(array)
    annotation.CopyInformation(base.annotation)
    check_examples([replace(base, annotation=annotation)], {"ball": CLASSES["ball"]})
    with pytest.raises(ps.PromptSegError, match="paint some background"):
        check_examples([replace(base, annotation=annotation, excluded={})], {"ball": CLASSES["ball"]})


def test_the_loss_pushes_away_from_the_excluded_class_alone():
    logits = torch.zeros(3, 3, requires_grad=True)
    labels = torch.tensor([0, 1, excluded_label(2)])
    weights = torch.tensor([1.0, 1.0, 2.0])
    loss = annotated_loss(logits, labels, weights)
    loss.backward()
    assert logits.grad[2, 2] > 0
    assert torch.allclose(logits.grad[2, :2], logits.grad[2, :2].mean().expand(2))
    # One mean over all voxels, each with its class's weight: -log(1 - 1/3) for the excluded one.
    known = annotated_loss(torch.zeros(2, 3), labels[:2], weights)
    mean = 2 * np.log(3.0)  # of the cross-entropy of the two, times their weights
    rest = float(known) - mean / 2
    assert float(loss.detach()) == pytest.approx((mean + 2 * np.log(1.5)) / 4 + rest, abs=1e-5)
    sure = annotated_loss(torch.tensor([[0.0, 0.0, 60.0]]), labels[2:], torch.ones(3))
    assert torch.isfinite(sure) and float(sure) > 50


def test_agreement_counts_a_excluded_voxel_against_its_own_class():
    labels = torch.tensor([1, 1, excluded_label(1)])
    assert agreement(torch.tensor([1, 1, 2]), labels, 2)[0] == 1.0
    assert agreement(torch.tensor([1, 1, 1]), labels, 2)[0] == pytest.approx(0.8)


@pytest.mark.parametrize("mode", ["decoder", "full"])
def test_tuning_and_segmenting_honor_what_was_erased(backbone, mode):
    case = with_erased(BOX)
    settings = ps.Settings(mode=mode, steps=2, token_steps=10)
    prompts = ps.tune([case], CLASSES, backbone, settings=settings)
    for grown in (True, False):
        labels = sitk.GetArrayFromImage(
            ps.segment(
                prompts, case.image, backbone, strokes=case, options=ps.SegmentationOptions(grow_strokes=grown)
            ).labels
        )
        assert not (labels[BOX] == CLASSES["ball"]).any()
        painted = sitk.GetArrayFromImage(case.annotation)
        for value in CLASSES.values():
            assert (labels[painted == value] == value).all()
