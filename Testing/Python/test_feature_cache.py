"""What is kept between jobs on an image changes how fast they are, not what they give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import PromptSegLib as ps
from harness.tiny_model import CLASSES, example, tiny_backbone
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.inference.class_margins import class_margins
from PromptSegLib.inference.tiling import OVERLAP, OVERLAP_ALONE, aligned, overlaps, starts, steps
from PromptSegLib.inference.uncertainty import places_to_look
from PromptSegLib.models.feature_cache import IMAGES, EncoderMaps, FeatureCache

pytestmark = pytest.mark.usefixtures("brisk_growing")

BRIEF = ps.Settings(steps=2, token_steps=5)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("models"), shipped=True)


@pytest.fixture
def encodings(backbone, monkeypatch):
    """Counts the encoder's runs."""
    runs, encode = [], type(backbone.net).encode
    monkeypatch.setattr(type(backbone.net), "encode", lambda self, *words: runs.append(1) or encode(self, *words))
    return runs


def large_example():
    return example(shape=(20, 90, 96))


def test_a_second_job_gives_the_same_without_encoding_again(backbone, encodings):
    case, feature_cache = large_example(), FeatureCache()
    fresh = ps.tune([case], CLASSES, backbone, settings=BRIEF)
    expected = ps.segment(fresh, case.image, backbone)
    ps.tune([case], CLASSES, backbone, settings=BRIEF, options=ps.TuningOptions(feature_cache=feature_cache))
    ps.segment(fresh, case.image, backbone, options=ps.SegmentationOptions(feature_cache=feature_cache))
    encodings.clear()
    again = ps.tune([case], CLASSES, backbone, settings=BRIEF, options=ps.TuningOptions(feature_cache=feature_cache))
    result = ps.segment(again, case.image, backbone, options=ps.SegmentationOptions(feature_cache=feature_cache))
    assert not encodings
    for name in CLASSES:
        for key, array in fresh.find(name).tensors.items():
            assert np.array_equal(array, again.find(name).tensors[key])
    assert np.array_equal(sitk.GetArrayFromImage(result.labels), sitk.GetArrayFromImage(expected.labels))


def test_maps_without_room_are_computed_again(backbone, encodings):
    maps, tile = EncoderMaps(0), torch.zeros(1, 1, *backbone.tile)
    first = maps.of(backbone, tile, (0, 0, 0))
    assert len(maps) == 0
    for one, other in zip(first, maps.of(backbone, tile, (0, 0, 0))):
        assert torch.equal(one, other)
    assert len(encodings) == 2


def test_another_image_drops_the_maps_and_old_images_are_forgotten(backbone):
    feature_cache = FeatureCache()
    images = [example(seed=seed).image for seed in range(IMAGES + 1)]
    maps = feature_cache.maps(images[0], backbone)
    assert feature_cache.maps(images[0], backbone) is maps
    assert feature_cache.maps(images[1], backbone) is not maps
    volumes = [feature_cache.volume(image, backbone.preprocessing) for image in images]
    assert feature_cache.volume(images[-1], backbone.preprocessing) is volumes[-1]
    assert feature_cache.volume(images[0], backbone.preprocessing) is not volumes[0]


def test_maps_go_with_their_image(backbone):
    """Its id may be given to the next image, which must not get them."""
    feature_cache = FeatureCache()
    first = example().image
    maps = feature_cache.maps(first, backbone)
    later = [example(seed=seed).image for seed in range(1, IMAGES + 1)]
    for image in later:
        feature_cache.volume(image, backbone.preprocessing)
    assert feature_cache.maps(first, backbone) is not maps


@pytest.mark.parametrize("overlap", [OVERLAP, OVERLAP_ALONE])
@pytest.mark.parametrize("extent", [5, 16, 17, 30, 31, 45, 60, 100, 257])
def test_tiles_are_few_overlap_and_spread_evenly(extent, overlap):
    tile, shape = (16, 16, 16), (extent, 20, 20)
    step = steps(shape, tile, overlap)
    rows = sorted({start[0] for start in starts(shape, tile, step)})
    assert rows[0] == 0 and rows[-1] == max(extent - 16, 0)
    gaps = np.diff(rows)
    assert (gaps <= int(16 * (1 - overlap))).all()
    assert len(rows) == 1 + -(-max(extent - 16, 0) // int(16 * (1 - overlap)))
    # As MONAI computes its interval from an overlap.
    assert tuple(int(size * (1 - share)) for size, share in zip(tile, overlaps(step, tile))) == step


def test_a_box_is_made_of_the_tiles_of_the_whole_sweep():
    tile, shape = (16, 32, 32), (60, 200, 41)
    step = steps(shape, tile)
    box = aligned((30, 70, 5), (45, 110, 9), shape, tile, step)
    whole = set(starts(shape, tile, step))
    size = [part.stop - part.start for part in box]
    for start in starts(size, tile, step):
        assert tuple(a + part.start for a, part in zip(start, box)) in whole
    for part, low, high, extent in zip(box, (30, 70, 5), (45, 110, 9), shape):
        assert part.start <= low and part.stop >= min(high, extent)


def test_evidence_in_a_box_is_that_of_the_whole_sweep_away_from_its_border(backbone):
    prompts = backbone.shipped
    array = np.random.default_rng(0).uniform(-1, 1, (30, 100, 100)).astype(np.float32)
    whole, step = class_margins(backbone, prompts, array), steps(array.shape, backbone.tile)
    box = aligned((5, 40, 40), (10, 60, 60), array.shape, backbone.tile, step)
    part = class_margins(backbone, prompts, array[box], step=step)
    inner = (slice(None), slice(2, 10), slice(14, -14), slice(14, -14))
    assert np.abs(part[inner] - whole[(slice(None), *box)][inner]).max() < 0.05


def test_without_strokes_tiles_overlap_more(backbone, encodings):
    """With strokes they are the tiles that were encoded while the user painted."""
    case = example(shape=(20, 40, 170))
    prompts = replace(ps.tune([case], CLASSES, backbone, settings=BRIEF), strokes=())
    shape = FeatureCache().volume(case.image, backbone.preprocessing).array.shape
    few, many = (
        len(starts(shape, backbone.tile, steps(shape, backbone.tile, overlap))) for overlap in (OVERLAP, OVERLAP_ALONE)
    )
    assert few < many
    for strokes, encoded, kept in ((case, few, few), (None, many, 0)):
        feature_cache = FeatureCache()
        encodings.clear()
        ps.segment(
            prompts, case.image, backbone, strokes=strokes, options=ps.SegmentationOptions(feature_cache=feature_cache)
        )
        assert (len(encodings), len(feature_cache.maps(case.image, backbone))) == (encoded, kept)


def test_around_the_strokes_only_a_part_is_computed(backbone):
    case = example(shape=(20, 40, 150))
    prompts = ps.tune([case], CLASSES, backbone, settings=BRIEF)
    result = ps.segment(prompts, case.image, backbone, options=ps.SegmentationOptions(around=10.0))
    size, full = result.labels.GetSize(), case.image.GetSize()
    assert size[0] < full[0] and size[1:] == full[1:]
    painted = sitk.GetArrayFromImage(case.annotation)[..., : size[0]]
    labels = sitk.GetArrayFromImage(result.labels)
    for value in CLASSES.values():
        assert (labels[painted == value] == value).all()
    assert result.labels.GetOrigin() == case.image.GetOrigin()


def test_places_to_look_are_unsure_unseen_and_apart():
    grid = Grid((40, 30, 50), (2.0, 2.0, 3.0), (-10.0, 5.0, 100.0))
    unsure = np.zeros((50, 30, 40), np.float32)
    unsure[10, 5:9, 8:12] = 0.9  # annotated right there
    unsure[30, 20:24, 30:34] = 0.8
    unsure[44, 3:5, 3:5] = 0.6
    annotated = np.zeros(unsure.shape, bool)
    annotated[10, 4:10, 7:13] = True
    points = places_to_look(unsure, annotated, grid)
    indices = grid.indices(np.array(points)).round().astype(int)
    assert [z for _, _, z in indices[:2]] == [30, 44]
    assert unsure[tuple(indices[0][::-1])] > 0.5
    assert not places_to_look(np.zeros_like(unsure), annotated, grid)


def test_uncertainty_comes_with_places(backbone):
    case = example()
    result = ps.segment(backbone.shipped, case.image, backbone, options=ps.SegmentationOptions(uncertainty=True))
    assert result.uncertainty.GetSize() == case.image.GetSize()
    assert result.places
    low, high = (np.array(case.image.TransformIndexToPhysicalPoint(end)) for end in ((0, 0, 0), (47, 39, 19)))
    for point in result.places:
        assert (np.array(point) > low - 5).all() and (np.array(point) < high + 5).all()
