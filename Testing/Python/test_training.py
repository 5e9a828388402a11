"""Tuning as training: which crops are seen, what is held out, on which grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import PromptSegLib as ps
from harness.tiny_model import CLASSES, PREPROCESSING, phantom, tiny_backbone
from PromptSegLib.annotation.example import Example
from PromptSegLib.annotation.labels import UNKNOWN, barred_label
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.network.methods.registry import offered
from PromptSegLib.tuning.training import Annotated, RandomCrops, hold_out
from PromptSegLib.tuning.working_grid import MOST_VOXELS, upright_spacing, working_preprocessing

BRIEF = ps.Settings(steps=3, token_steps=3, seed=3)
SIZE = (8, 16, 16)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("tiny"), shipped=True)


def complete(**keywords) -> Example:
    image, reference = phantom(**keywords)
    return Example(image, reference, complete=True)


def volumes(count: int = 2) -> list[Annotated]:
    """Bright boxes of class 1 and 2 on darkness, class 2 in the first volume alone."""
    made = []
    for index in range(count):
        labels = np.zeros((20, 40, 36), np.int16)
        labels[4:9, 10:20, 8:16] = 1
        if index == 0:
            labels[15:17, 30:33, 28:31] = 2
        made.append(Annotated((0.5 * labels - 0.5).astype(np.float32), labels))
    return made


def test_every_class_is_centred_on_equally_often_whatever_its_size():
    crops = RandomCrops(volumes(), 2, SIZE, 0)
    drawn = [crops.crop(number).labels for number in range(60)]
    seen = [sum(bool((labels == value).any()) for labels in drawn) for value in (1, 2)]
    assert min(seen) > 15  # the second has 18 voxels of 2 x 28800


def test_crops_are_changed_alike_in_image_and_labels():
    crops = RandomCrops(volumes(), 2, SIZE, 0)
    agreed = []
    for number in range(30):
        crop = crops.crop(number)
        assert crop.image.shape == (1, 1, *SIZE) and crop.labels.shape == SIZE
        assert float(crop.image.min()) >= -1 and float(crop.image.max()) <= 1
        assert set(crop.labels.unique().tolist()) <= {UNKNOWN, 0, 1, 2}
        inside, outside = crop.image[0, 0][crop.labels == 1], crop.image[0, 0][crop.labels == 0]
        if len(inside) > 20 and len(outside) > 20:
            agreed.append(float(inside.median()) > float(outside.median()))
    assert len(agreed) > 8 and all(agreed)


def test_crops_are_a_function_of_the_seed_and_their_number():
    first, again, other = (RandomCrops(volumes(), 2, SIZE, seed) for seed in (1, 1, 2))
    ahead = [next(first) for _ in range(4)]
    first.close()
    assert all(torch.equal(each.image, again.crop(number).image) for number, each in enumerate(ahead))
    assert not torch.equal(ahead[0].image, other.crop(0).image)


def test_what_is_held_out_is_not_learned_from():
    given = volumes(3)
    rest, held = hold_out(given, SIZE, np.random.default_rng(0))
    assert len(held) == 3
    for before, after, crop in zip(given, rest, held):
        gone = (before.labels >= 0) & (after.labels == UNKNOWN)
        assert 0 < gone.sum() < 0.15 * before.labels.size
        assert int((crop.labels >= 0).sum()) == gone.sum() and (crop.labels > 0).any()
        assert np.array_equal(before.labels[~gone], after.labels[~gone])
    assert hold_out(given[:1], SIZE, np.random.default_rng(0)) == (given[:1], [])


def test_a_class_alone():
    labels = np.array([[[0, 1, 2, 3, UNKNOWN, barred_label(2), barred_label(3)]]], np.int16)
    alone = Annotated(labels.astype(np.float32), labels).alone(2)
    assert alone.labels.ravel().tolist() == [0, 0, 1, 0, UNKNOWN, barred_label(1), UNKNOWN]


@pytest.mark.training
@pytest.mark.parametrize(
    "method, passes", [*((name, "joint") for name in offered()), ("punet", "each"), ("side", "each")]
)
def test_complete_volumes_train_by_every_method(backbone, method, passes):
    settings = replace(BRIEF, method=method, passes=passes)
    before = {name: tensor.clone() for name, tensor in backbone.net.state_dict().items()}
    prompts = ps.tune([complete(), complete(seed=1)], CLASSES, backbone, settings=settings)
    after = backbone.net.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    for record in prompts.tuning.values():
        assert len(record["held_out"]) >= 2  # the start and the end are compared, at least
    labels = ps.segment(prompts, phantom(seed=2)[0], backbone).labels
    assert labels.GetSize() == phantom()[0].GetSize()


@pytest.mark.training
def test_training_is_reproducible(backbone):
    settings = replace(BRIEF, method="linear")
    first, again = (ps.tune([complete(), complete(seed=1)], CLASSES, backbone, settings=settings) for _ in range(2))
    assert all(
        np.array_equal(tensor, again.find("ball").tensors[key]) for key, tensor in first.find("ball").tensors.items()
    )


def test_strokes_are_not_trained_on_and_complete_annotations_need_not_be(backbone, monkeypatch):
    from PromptSegLib.tuning import tuning as module

    monkeypatch.setattr(module, "RandomCrops", None)  # called, it would fail
    from harness.tiny_model import example

    ps.tune([example()], CLASSES, backbone, settings=BRIEF)
    ps.tune([complete()], CLASSES, backbone, settings=replace(BRIEF, training=False))
    with pytest.raises(TypeError):
        ps.tune([complete()], CLASSES, backbone, settings=BRIEF)


@pytest.mark.training
def test_training_learns_the_next_image(backbone):
    """Not only the images that taught: another phantom, from prompts that saw it never."""
    settings = ps.Settings(steps=30, token_steps=30, method="linear", seed=0)
    prompts = ps.tune([complete(), complete(seed=1)], CLASSES, backbone, settings=settings)
    shown, reference = phantom(seed=5)
    found = sitk.GetArrayFromImage(ps.segment(prompts, shown, backbone).labels)
    truth = sitk.GetArrayFromImage(reference)
    for value in CLASSES.values():
        both = ((found == value) & (truth == value)).sum()
        assert 2 * both / ((found == value).sum() + (truth == value).sum()) > 0.6


# The working grid


def test_heads_work_on_the_examples_own_grid(backbone):
    fine = complete(spacing=(1.5, 1.5, 1.8))
    prompts = ps.tune([fine], CLASSES, backbone, settings=replace(BRIEF, method="linear"))
    assert prompts.preprocessing.spacing == (1.8, 1.5, 1.5)
    assert prompts.preprocessing.intensity == PREPROCESSING.intensity
    read = ps.Prompts.from_bytes(prompts.to_bytes())
    first, again = (ps.segment(each, fine.image, backbone).labels for each in (prompts, read))
    assert np.array_equal(sitk.GetArrayFromImage(first), sitk.GetArrayFromImage(again))
    # What goes on from them stays on their grid, and shipped classes, which know another, lend nothing.
    more = ps.tune(
        [complete()], {"rod": 9}, backbone, start=prompts, settings=replace(BRIEF, method="linear", training=False)
    )
    assert more.preprocessing == prompts.preprocessing
    tokens = ps.tune([fine], CLASSES, backbone, settings=BRIEF)
    assert tokens.preprocessing == backbone.preprocessing


def test_maps_of_one_grid_are_not_taken_for_anothers(backbone):
    from PromptSegLib.models.workspace import Workspace

    workspace, shown = Workspace(), complete()
    coarse = ps.tune([shown], CLASSES, backbone, settings=BRIEF, workspace=workspace)
    fine = ps.tune([shown], CLASSES, backbone, settings=replace(BRIEF, method="side"), workspace=workspace)
    for prompts in (coarse, fine, coarse):
        kept, alone = (
            ps.segment(prompts, shown.image, backbone, strokes=Example(shown.image, shown.annotation), workspace=each)
            for each in (workspace, Workspace(0))
        )
        assert np.array_equal(sitk.GetArrayFromImage(kept.labels), sitk.GetArrayFromImage(alone.labels))


def test_the_working_grid_is_bounded():
    thick = complete(spacing=(1.0, 1.0, 7.7))
    assert working_preprocessing([thick], PREPROCESSING).spacing == (2.0, 1.0, 1.0)
    large = sitk.Image(400, 400, 300, sitk.sitkInt16)
    steps = working_preprocessing([Example(large, large, complete=True)], PREPROCESSING).spacing
    assert 400 * 400 * 300 / np.prod(steps) == pytest.approx(MOST_VOXELS, rel=0.01)
    odd = [complete(spacing=(s, s, s)) for s in (1.0, 1.2, 3.0)]
    assert working_preprocessing(odd, PREPROCESSING).spacing == (1.2, 1.2, 1.2)


def test_intensities_that_do_not_fit_the_window_make_percentiles_the_rule():
    fitting, other = complete(), complete()
    other = Example(sitk.Cast(other.image * 1000 + 5000, sitk.sitkFloat32), other.annotation, complete=True)
    assert working_preprocessing([fitting], PREPROCESSING).rule == "window"
    mixed = working_preprocessing([fitting, other], PREPROCESSING)
    assert (mixed.rule, mixed.intensity) == ("percentile", (0.5, 99.5))


def test_spacing_runs_along_the_patients_axes():
    sagittal = Grid((10, 11, 12), (3.0, 1.0, 2.0), (0, 0, 0), (0, 0, 1, 1, 0, 0, 0, 1, 0))
    # The first image axis runs along y, the second along z, the third along x.
    assert upright_spacing(sagittal) == (1.0, 3.0, 2.0)
