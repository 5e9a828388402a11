"""Intensities as a model sees them: one rule for one image, decided from the image."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from PromptSegLib.imaging.intensity import KINDS, MODALITY, IntensityRule, decide
from PromptSegLib.imaging.preprocessing import Preprocessing
from PromptSegLib.imaging.volume import Volume
from PromptSegLib.models.feature_cache import FeatureCache

pytestmark = pytest.mark.usefixtures("brisk_growing")

CT = Preprocessing((3.0, 2.0, 2.0), (-125.0, 275.0))
PERCENTILES = Preprocessing((1.0, 1.0, 1.0), (1.0, 99.0), "percentile")
SHAPE = (24, 64, 64)


def abdomen(seed: int = 0, clip: tuple[float, float] = (-1000, 1500)) -> np.ndarray:
    """Air, fat under the skin, soft tissue, an organ with contrast, bowel gas and bone, in whole HU."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    radius = np.hypot(y - 32, x - 32)
    array = np.full(SHAPE, -1000.0)
    array[radius < 28] = -100
    array[radius < 21] = 45
    array[np.hypot(y - 30, x - 24) < 7] = 110
    array[np.hypot(y - 38, x - 40) < 3] = -900
    array[np.hypot(y - 46, x - 32) < 3] = 600
    noise = rng.normal(0, 14, SHAPE)
    return np.clip(np.round(array + noise), *clip)


def brain(seed: int = 0, top: float = 110.0) -> np.ndarray:
    """A crop of an MR: dark fluid, gray and white matter, all above 0 and without a background."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    tissue = np.where(np.hypot(y - 32, x - 32) < 8, 0.18, np.where((x // 9 + y // 11) % 2, 0.58, 0.84))
    return np.clip(np.round((tissue + rng.normal(0, 0.06, SHAPE)) * top), 0, top)


def onto(low: float, high: float, first: float, last: float, whole: bool = False):
    """An export: a window is clipped and mapped onto a range."""

    def change(array: np.ndarray) -> np.ndarray:
        mapped = (np.clip(array, low, high) - low) / (high - low) * (last - first) + first
        return np.round(mapped) if whole else mapped

    return change


def expected(array: np.ndarray) -> np.ndarray:
    return np.clip((array.astype(np.float32) - -125.0) * (2.0 / 400.0) - 1.0, -1.0, 1.0)


@pytest.mark.parametrize("clip", [(-1000, 1500), (-1024, 3071), (-125, 275), (-500, 775), (-160, 240)])
@pytest.mark.parametrize("kind", [np.int16, np.float32, np.float64])
def test_a_ct_in_its_unit_has_the_models_window_to_the_bit(clip, kind):
    array = abdomen(clip=clip).astype(kind)
    rule = decide(array, CT)
    assert (rule.kind, rule.low, rule.high, rule.sentence) == ("window", -125.0, 275.0, "")
    assert rule.fits_window and np.array_equal(rule.normalize(array), expected(array))
    assert rule.normalize(array).dtype == np.float32


def corner(value: float):
    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[:, :12, :12] = value
        return array

    return change


@pytest.mark.parametrize("value", [-3024, -2048, -2000, 0, 30000])
def test_padding_says_nothing_of_an_image(value):
    assert decide(corner(value)(abdomen()), CT).kind == "window"
    shifted = decide(corner(value)(abdomen() + 1024), CT)
    assert (shifted.kind, shifted.offset) == ("shifted", -1024)


@pytest.mark.parametrize("zero", [1024, 2048, 4096, 32768])
@pytest.mark.parametrize("clip", [(-1000, 1500), (-125, 275), (-500, 775)])
@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_a_ct_with_an_offset_becomes_what_it_is(zero, clip, kind):
    array = abdomen(clip=clip)
    rule = decide((array + zero).astype(kind), CT)
    assert (rule.kind, rule.scale, rule.offset) == ("shifted", 1.0, -zero)
    assert rule.fits_window and str(zero) in rule.sentence and rule.sentence.count(". ") == 0
    assert np.allclose(rule.normalize((array + zero).astype(kind)), expected(array), atol=1e-5)


EXPORTS = {
    "0 to 1": onto(-125, 275, 0, 1),
    "-1 to 1": onto(-125, 275, -1, 1),
    "0 to 100": onto(-125, 275, 0, 100),
    "0 to 1000": onto(-125, 275, 0, 1000),
    "8 bits": onto(-125, 275, 0, 255, True),
    "16 bits": onto(-125, 275, 0, 65535, True),
    "z-scores": lambda array: (np.clip(array, -125, 275) - 10) / 90,
    "0 to 100, whole": onto(-125, 275, 0, 100, True),
    "planning CT, 0 to 1": onto(-500, 775, 0, 1),
    "planning CT, 8 bits": onto(-500, 775, 0, 255, True),
    "wide, 8 bits": onto(-1000, 1000, 0, 255, True),
    "12 bits": onto(-1024, 3071, 0, 4095, True),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_exports_of_a_ct_end_as_the_ct(name):
    array = abdomen()
    changed = EXPORTS[name](array)
    rule = decide(changed, CT)
    # One step of an 8-bit export of 2000 HU is .04.
    assert np.abs(rule.normalize(changed) - expected(array)).mean() < 0.02, rule
    assert rule.sentence.endswith(".")


@pytest.mark.parametrize("factor", [0.013, 0.37, 1.0, 21.0])
def test_a_whole_ct_on_any_scale_is_nearly_the_ct(factor):
    changed = factor * (abdomen() + 1000) + 7
    rule = decide(changed, CT)
    assert rule.kind == "shifted" and np.abs(rule.normalize(changed) - expected(abdomen())).mean() < 0.05


@pytest.mark.parametrize("top", [1.0, 60.0, 110.0, 255.0, 900.0, 1300.0, 4e5])
@pytest.mark.parametrize("seed", [0, 1])
def test_all_of_an_mr_follow_one_rule(top, seed):
    array = brain(seed, 110.0) * (top / 110.0)
    rule = decide(array, CT)
    assert rule.kind == "percentile" and not rule.fits_window and "Hounsfield" in rule.sentence
    plain = brain(seed)
    assert np.allclose(rule.normalize(array), decide(plain, CT).normalize(plain), atol=1e-4)


def test_a_background_does_not_take_the_contrast():
    array = np.zeros((24, 96, 96))
    array[:, 40:64, 40:64] = brain()[:, :24, :24] * 8
    rule = decide(array, CT)
    assert rule.low == 0 and rule.high == pytest.approx(np.percentile(array[array > 0], 99.5), rel=0.02)
    padded = array.copy()
    padded[:, :20] = -20000
    assert decide(padded, CT).low > -100


@pytest.mark.parametrize("change", [lambda a: a * 1e-7, lambda a: a * 1e-12, lambda a: 3e6 + a, lambda a: a * 1e12])
def test_any_unit_keeps_its_contrast(change):
    normal = decide(change(brain()), CT).normalize(change(brain()))
    assert normal.std() > 0.2 and (np.abs(normal) < 1).mean() > 0.3


def test_a_few_voxels_are_all_that_differs():
    array = np.zeros(SHAPE)
    array[0, 0, 0] = 5
    normal = decide(array, CT).normalize(array)
    assert np.isfinite(normal).all() and normal[0, 0, 0] == 1 and normal[5, 5, 5] == -1


def as_image(array: np.ndarray, modality: str = "") -> sitk.Image:
    image = sitk.GetImageFromArray(array.astype(np.float32))
    if modality:
        image.SetMetaData(MODALITY, modality)
    return image


def test_what_the_file_says_is_believed():
    assert decide(as_image(abdomen(), "CT"), CT).kind == "window"
    rule = decide(as_image(abdomen(), "MR "), CT)
    assert rule.kind == "percentile" and "this image is MR" in rule.sentence
    # A narrow window may be anything, unless the file says that it is a CT.
    bits = onto(-160, 240, 0, 255, True)(abdomen())
    assert decide(as_image(bits), CT).kind == "percentile"
    told = decide(as_image(bits, "CT"), CT)
    assert (
        told.kind == "shifted" and np.abs(told.normalize(bits) - expected(np.clip(abdomen(), -160, 240))).mean() < 0.03
    )


def test_percentiles_are_the_rule_of_other_models():
    rule = decide(abdomen(), PERCENTILES)
    low, high = np.percentile(abdomen(), (1, 99))
    assert (rule.kind, rule.sentence) == ("percentile", "") and (rule.low, rule.high) == pytest.approx(
        (low, high), abs=20
    )


def test_a_model_for_images_without_a_unit_has_their_range_without_background():
    anything = Preprocessing((1.0, 1.0, 1.0), (0.5, 99.5), "range")
    rng = np.random.default_rng(0)
    mr = np.zeros((20, 30, 30))
    mr[:, 5:-5, 5:-5] = rng.uniform(100, 600, (20, 20, 20))
    for image in (as_image(mr), as_image(mr * 3 + 7)):
        rule, same = decide(image, anything), decide(image, CT)
        assert (rule.kind, rule.low, rule.high, rule.sentence) == (same.kind, same.low, same.high, "")
    narrow = decide(as_image(mr), replace(anything, intensity=(10.0, 90.0)))
    assert narrow.high == pytest.approx(550, abs=10)
    assert "a model for CT may do better" in decide(abdomen(), anything).sentence
    assert "a model for CT may do better" in decide(as_image(mr), anything, "CT").sentence
    assert Preprocessing.from_dict(anything.to_dict()) == anything
    with pytest.raises(ValueError, match="percentiles"):
        Preprocessing.from_dict({**anything.to_dict(), "intensity": [-125, 275]})


def test_the_next_image_is_taken_as_the_tuned_one_was():
    ct, mr = decide(abdomen(), CT), decide(brain(), CT)
    assert decide(abdomen(1), CT, given=ct).kind == "window"
    assert decide(abdomen(1) + 1024, CT, given=ct).kind == "shifted"
    other = decide(brain(1, 900), CT, given=ct)
    assert other.kind == "percentile" and "tuned on a CT" in other.sentence
    alike = decide(brain(1, 900), CT, given=mr)
    assert alike.kind == "percentile" and alike.sentence == ""
    forced = decide(abdomen(1), CT, given=mr)
    assert forced.kind == "percentile" and "own range" in forced.sentence


def test_a_rule_can_be_kept():
    for array in (abdomen(), abdomen() + 1024, brain()):
        rule = decide(array, CT)
        again = IntensityRule.from_dict(json.loads(json.dumps(rule.to_dict())))
        assert (again.kind, again.low, again.high, again.scale, again.offset) == (
            rule.kind,
            rule.low,
            rule.high,
            rule.scale,
            rule.offset,
        )
        assert np.array_equal(again.normalize(array), rule.normalize(array))
    good = decide(abdomen(), CT).to_dict()
    for key, value in {"kind": "log", "low": 275.0, "high": float("inf"), "scale": 0.0, "offset": float("nan")}.items():
        with pytest.raises(ValueError):
            IntensityRule.from_dict({**good, key: value})
    assert {"window", "shifted", "percentile"} == set(KINDS)


def test_a_workspace_follows_the_rule_of_the_prompts():
    feature_cache, image = FeatureCache(), as_image(abdomen())
    ct, mr = decide(abdomen(), CT), decide(brain(), CT)
    first = feature_cache.volume(image, CT)
    assert first.rule.kind == "window" and feature_cache.volume(image, CT) is first
    assert feature_cache.volume(image, CT, ct).array is first.array
    forced = feature_cache.volume(image, CT, mr)
    assert forced.rule.kind == "percentile" and not np.array_equal(forced.array, first.array)
    assert np.array_equal(forced.array, Volume.of(image, CT, mr).array)
