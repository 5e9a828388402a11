"""Inference: the image's own grid, tiles, slabs, groups, maps and regions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

import PromptSegLib as ps
from harness.tiny_model import BACKGROUND, CLASSES, example, painted, phantom, tiny_backbone
from PromptSegLib.annotation.classes import describe
from PromptSegLib.annotation.example import Example
from PromptSegLib.annotation.labels import UNKNOWN, excluded_label
from PromptSegLib.imaging.geometry import Grid, upright_grid
from PromptSegLib.imaging.volume import Volume
from PromptSegLib.inference import class_margins as margins_module
from PromptSegLib.inference import resample_to_image as native_module
from PromptSegLib.inference.class_margins import Probabilities, class_margins
from PromptSegLib.inference.field_of_view import FieldOfView, strokes_on
from PromptSegLib.inference.regions import agrees_with_strokes
from PromptSegLib.inference.resample_to_image import labels_on_native, native_slabs, winner
from PromptSegLib.inference.stroke_regions import segment_strokes
from PromptSegLib.inference.tiling import OVERLAP, OVERLAP_ALONE, starts, steps
from PromptSegLib.models.feature_cache import FeatureCache

pytestmark = pytest.mark.usefixtures("brisk_growing")

TILTED = tuple(np.array([[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1]]).ravel())
LEFT_HANDED = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def prompts(backbone):
    return ps.tune([example()], CLASSES, backbone, settings=ps.Settings(steps=25, rate=5e-3))


@pytest.mark.parametrize("direction", [None, TILTED, LEFT_HANDED])
def test_labels_come_on_the_images_own_grid(backbone, prompts, direction):
    image, _ = phantom(direction=direction)
    result = ps.segment(prompts, image, backbone)
    assert Grid.of(result.labels) == Grid.of(image)
    assert result.labels.GetPixelID() == sitk.sitkUInt8
    assert set(np.unique(sitk.GetArrayFromImage(result.labels))) <= {0, *CLASSES.values()}


@pytest.mark.parametrize("direction", [None, TILTED, LEFT_HANDED])
def test_strokes_are_honored_voxel_by_voxel(backbone, prompts, direction):
    shown = example(direction=direction)
    for growing in (None, False):
        result = ps.segment(
            prompts, shown.image, backbone, strokes=shown, options=ps.SegmentationOptions(grow_strokes=growing)
        )
        labels = sitk.GetArrayFromImage(result.labels)
        strokes = sitk.GetArrayFromImage(shown.annotation)
        for value in CLASSES.values():
            assert (labels[strokes == value] == value).all()
        assert (labels[strokes == BACKGROUND] == 0).all()


def test_the_same_image_is_recognized_and_grown_from_its_strokes(backbone, prompts):
    shown = example()
    remembered = ps.segment(prompts, shown.image, backbone)
    given = ps.segment(prompts, shown.image, backbone, strokes=shown)
    assert "growing" in remembered.seconds
    assert np.array_equal(sitk.GetArrayFromImage(remembered.labels), sitk.GetArrayFromImage(given.labels))
    other, _ = phantom(seed=9)
    assert "growing" not in ps.segment(prompts, other, backbone).seconds
    forgetful = replace(prompts, strokes=())
    assert "growing" not in ps.segment(forgetful, shown.image, backbone).seconds


def test_growing_finds_the_structures_of_the_phantom(backbone, prompts):
    image, reference = phantom()
    result = ps.segment(prompts, image, backbone)
    truth, labels = sitk.GetArrayFromImage(reference), sitk.GetArrayFromImage(result.labels)
    for value in CLASSES.values():
        both = ((truth == value) & (labels == value)).sum()
        assert 2 * both / ((truth == value).sum() + (labels == value).sum()) > 0.8


def test_a_class_never_depends_on_what_else_is_asked_for(backbone, prompts):
    image, _ = phantom()
    every = sitk.GetArrayFromImage(ps.segment(prompts, image, backbone).labels)
    only = ps.segment(prompts, image, backbone, classes=["rod"])
    assert np.array_equal(sitk.GetArrayFromImage(only.labels), np.where(every == 9, 9, 0))
    assert [info.name for info in only.classes] == ["rod"]
    with pytest.raises(ps.PromptSegError, match="no class 'kidney'"):
        ps.segment(prompts, image, backbone, classes=["kidney"])


def test_what_is_painted_of_a_class_that_is_not_asked_for_is_no_other_class(backbone):
    """Also where it is in another group, which is left out of the pass."""
    shown, brief = example(), ps.Settings(steps=1)
    array = sitk.GetArrayFromImage(shown.annotation)
    array[9:11, 12:16, 16:18] = CLASSES["rod"]  # in the ball
    shown = replace(shown, annotation=Grid.of(shown.image).image(array))
    ball = ps.tune([shown], {"ball": 5}, backbone, settings=brief)
    both = ps.tune([shown], {"rod": 9}, backbone, start=ball, settings=brief)
    for strokes in (None, shown):
        labels = sitk.GetArrayFromImage(
            ps.segment(both, shown.image, backbone, classes=["ball"], strokes=strokes).labels
        )
        assert (labels[array == 5] == 5).all() and not labels[array == 9].any()
    # What was erased from it may be anything else.
    array[0, :2], array[0, 2:4] = 3, 4
    erased = replace(shown, annotation=Grid.of(shown.image).image(array), excluded={3: 5, 4: 9})
    painted = strokes_on(shown.image, both, both.only(["rod"]), erased, FeatureCache(0))
    for value, label in ((0, -1), (BACKGROUND, 0), (5, 0), (9, 1), (3, -1), (4, -2)):
        assert (painted[array == value] == label).all()


def test_probabilities_and_uncertainty_on_request(backbone, prompts):
    image, _ = phantom(direction=TILTED)
    result = ps.segment(
        prompts,
        image,
        backbone,
        options=ps.SegmentationOptions(probabilities=True, uncertainty=True, grow_strokes=False),
    )
    total = sum(sitk.GetArrayFromImage(each) for each in result.probabilities.values())
    assert set(result.probabilities) == set(CLASSES)
    assert total.min() >= 0 and total.max() <= 1 + 1e-5
    unsure = sitk.GetArrayFromImage(result.uncertainty)
    assert unsure.min() >= 0 and 0 < unsure.max() <= 1 + 1e-5
    labels = sitk.GetArrayFromImage(result.labels)
    ball = sitk.GetArrayFromImage(result.probabilities["ball"])
    assert ball[labels == 5].min() > ball[labels == 0].mean()  # from where on, test_deciding.py says
    assert Grid.of(result.uncertainty) == Grid.of(image)
    plain = ps.segment(prompts, image, backbone)
    assert plain.probabilities is None and plain.uncertainty is None


def test_a_region_limits_what_is_labeled(backbone, prompts):
    image, _ = phantom()
    whole = sitk.GetArrayFromImage(ps.segment(prompts, image, backbone).labels)
    part = sitk.GetArrayFromImage(
        ps.segment(prompts, image, backbone, options=ps.SegmentationOptions(region=((5, 8, 2), (30, 30, 12)))).labels
    )
    assert np.array_equal(part[2:12, 8:30, 5:30], whole[2:12, 8:30, 5:30])
    part[2:12, 8:30, 5:30] = 0
    assert not part.any()
    with pytest.raises(ps.PromptSegError, match="does not lie inside"):
        ps.segment(prompts, image, backbone, options=ps.SegmentationOptions(region=((0, 0, 0), (999, 3, 3))))


def test_values_above_255_widen_the_labels(backbone):
    shown = example()
    strokes = sitk.GetArrayFromImage(shown.annotation).astype(np.uint16)
    strokes[strokes == 5] = 700
    wide = sitk.GetImageFromArray(strokes)
    wide.CopyInformation(shown.annotation)
    shown = replace(shown, annotation=wide)
    prompts = ps.tune([shown], {"ball": 700, "rod": 9}, backbone, settings=ps.Settings(steps=1, token_steps=1))
    result = ps.segment(prompts, shown.image, backbone)
    assert result.labels.GetPixelID() == sitk.sitkUInt16
    assert 700 in np.unique(sitk.GetArrayFromImage(result.labels))


@pytest.mark.parametrize("overlap", [OVERLAP, OVERLAP_ALONE])
def test_slabs_bound_memory_and_change_nothing(backbone, prompts, monkeypatch, overlap):
    volume = Volume.of(phantom()[0], backbone.preprocessing).array
    array = np.concatenate([volume, volume[::-1]] * 3)
    whole = class_margins(replace(backbone, slab_bytes=2**40), prompts, array, overlap=overlap)
    shapes, inferer = [], margins_module.sliding_window_inference
    monkeypatch.setattr(
        margins_module,
        "sliding_window_inference",
        lambda inputs, *words, **more: shapes.append(inputs.shape[2]) or inferer(inputs, *words, **more),
    )
    pieces = class_margins(replace(backbone, slab_bytes=1), prompts, array, overlap=overlap)
    assert len(shapes) > 2 and max(shapes) <= 3 * backbone.tile[0]
    assert np.array_equal(pieces, whole)


@pytest.mark.parametrize("deep", [0, 40, 75, 200])
@pytest.mark.parametrize("depth", [5, 16, 32, 33, 47, 64, 100, 193])
def test_slabs_are_whole_tiles_of_one_sweep_and_keep_every_voxel_once(depth, deep):
    tile, shape = (16, 32, 32), (depth, 40, 40)
    step = steps(shape, tile)
    rows = {start[0] for start in starts(shape, tile, step)}
    slabs = margins_module._slabs(shape, tile, step, deep)
    assert [kept for _, inner in slabs for kept in range(*inner)] == list(range(depth))
    for outer, inner in slabs:
        own = {outer[0] + start[0] for start in starts((outer[1] - outer[0], *shape[1:]), tile, step)}
        assert own <= rows and own >= {row for row in rows if row < inner[1] and row + tile[0] > inner[0]}
        assert outer[1] - outer[0] <= max(deep, 3 * tile[0])


def test_background_alone_is_honored_and_changes_nothing_else(backbone, prompts):
    shown = example()
    bare = replace(prompts, strokes=())
    plain = sitk.GetArrayFromImage(ps.segment(bare, shown.image, backbone).labels)
    labels = np.zeros_like(plain)
    labels[5] = BACKGROUND
    strokes = sitk.GetImageFromArray(labels)
    strokes.CopyInformation(shown.annotation)
    result = ps.segment(bare, shown.image, backbone, strokes=replace(shown, annotation=strokes))
    assert plain[5].any() and np.array_equal(
        sitk.GetArrayFromImage(result.labels), np.where(labels == BACKGROUND, 0, plain)
    )


@pytest.mark.parametrize("spacing", [(0.05, 0.05, 0.05), (0.003, 0.003, 0.003)])
def test_an_image_that_is_a_single_voxel_to_the_model_is_refused(backbone, prompts, spacing):
    shown = example(spacing=spacing)
    for work in (
        lambda: ps.segment(prompts, shown.image, backbone, options=ps.SegmentationOptions(name="ct.nrrd")),
        lambda: ps.tune([replace(shown, name="ct.nrrd")], CLASSES, backbone),
    ):
        with pytest.raises(ps.PromptSegError, match="ct.nrrd measures only .* check the voxel spacing"):
            work()


def test_tiles_of_air_hold_no_class(backbone, prompts):
    array = np.full((16, 32, 32), -1.0, np.float32)
    assert (class_margins(backbone, prompts, array) < -10).all()


def test_probabilities_are_those_of_a_softmax_with_background():
    values = np.array([[0.0, 3.0], [1.0, -2.0]], np.float16)
    shares = np.stack(list(Probabilities(values)))
    logits = np.concatenate([np.zeros((1, 2)), values.astype(float)])
    assert np.allclose(shares, np.exp(logits) / np.exp(logits).sum(0), atol=1e-6)


@pytest.mark.parametrize("direction", [None, TILTED, LEFT_HANDED])
def test_native_slabs_equal_one_interpolation(monkeypatch, direction):
    image, _ = phantom(direction=direction)
    native = Grid.of(image)
    grid = upright_grid(native, (3.0, 2.0, 2.0))
    values = np.random.default_rng(0).normal(size=(2, *grid.shape)).astype(np.float32)
    whole = np.concatenate([slab for _, slab in native_slabs(values, grid, native)], 1)
    monkeypatch.setattr(native_module, "_SLAB_VOXELS", 5000)
    pieces = list(native_slabs(values, grid, native))
    assert len(pieces) > 3
    assert np.allclose(np.concatenate([slab for _, slab in pieces], 1), whole, atol=1e-4)
    assert np.abs(whole).max() < 10  # no voxel of the image lies outside what is interpolated
    lookup = np.array([0, 5, 9], np.uint8)
    assert np.array_equal(labels_on_native([(each, grid) for each in values], native, lookup), lookup[winner(whole)])
    sparse = np.full_like(values, -5.0)
    sparse[0, :3, -4:, 5:9] = sparse[1, 8, 20, 20] = 5.0
    whole = np.concatenate([slab for _, slab in native_slabs(sparse, grid, native)], 1)
    assert np.array_equal(labels_on_native([(each, grid) for each in sparse], native, lookup), lookup[winner(whole)])


def test_cancelling_a_segmentation_raises(backbone, prompts):
    with pytest.raises(ps.Cancelled):
        ps.segment(prompts, phantom()[0], backbone, job=ps.ProgressHandle(is_cancelled=lambda: True))


def test_annotations_on_another_grid_are_strokes_too(backbone, prompts):
    image, reference = phantom()
    coarse = sitk.Resample(
        painted(reference), [24, 20, 20], sitk.Transform(), sitk.sitkNearestNeighbor, reference.GetOrigin(), [4, 4, 3]
    )
    result = ps.segment(prompts, image, backbone, strokes=ps.Example(image, coarse, BACKGROUND))
    assert sitk.GetArrayFromImage(result.labels).any()


@pytest.mark.parametrize("scale, offset", [(1.0, 0.0), (20.0, 5000.0), (0.01, 0.0), (1.0, -3000.0)])
def test_any_intensity_scale_can_be_tuned_and_grown(backbone, scale, offset):
    image, reference = phantom()
    image = image * scale + offset
    shown = ps.Example(image, painted(reference), BACKGROUND)
    prompts = ps.tune([shown], CLASSES, backbone, settings=ps.Settings(steps=25, rate=5e-3))
    labels = sitk.GetArrayFromImage(ps.segment(prompts, image, backbone).labels)
    truth = sitk.GetArrayFromImage(reference)
    for value in CLASSES.values():
        both = ((truth == value) & (labels == value)).sum()
        assert 2 * both / ((truth == value).sum() + (labels == value).sum()) > 0.75


def test_what_the_network_says_against_the_strokes_counts_for_nothing(tmp_path, monkeypatch):
    """It was taught these classes, on other images than this one: as CT's organs on an MR."""
    margins = FieldOfView.margins
    monkeypatch.setattr(FieldOfView, "margins", lambda *given: np.full_like(margins(*given), -8))
    backbone, case = tiny_backbone(tmp_path, shipped=True), example()
    shipped = backbone.shipped
    assert shipped is not None
    values = dict(zip(("liver", "spleen"), CLASSES.values()))
    strokes = sitk.ChangeLabel(case.annotation, {old: shipped.values[name] for name, old in values.items()})
    case = Example(case.image, strokes, BACKGROUND)
    found = ps.segment(shipped.only(list(values)), case.image, backbone, strokes=case)
    alone = segment_strokes(case, [describe(name, shipped.values[name]) for name in values])
    with_it, without = (sitk.GetArrayFromImage(each.labels) for each in (found, alone))
    for name in values:
        mine, other = with_it == shipped.values[name], without == shipped.values[name]
        assert 2 * (mine & other).sum() > 0.95 * (mine.sum() + other.sum()) > 0
    assert any("does not fit the painted slices" in note for note in found.notes)


@pytest.mark.parametrize(("said", "fits"), [([1, 1, 0, 0], True), ([0, 0, 0, 1], False), ([0, 0, 1, 0], False)])
def test_agreement_with_strokes(said, fits):
    painted = np.array([1, 1, excluded_label(1), UNKNOWN, 0])
    assert agrees_with_strokes(np.array([*said, 0.0]), painted, 1) is fits
    assert agrees_with_strokes(np.array([*said, 0.0]), painted, 2)  # nothing is painted of it
