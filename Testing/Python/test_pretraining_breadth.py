"""Broader data for a pretraining: synthesized images, label maps alone, zoomed views, wide windows, partial labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from harness.tiny_model import CLASSES, PREPROCESSING, phantom
from PromptSegLib.imaging.preprocessing import Preprocessing
from PromptSegLib.pretraining.cases import Case, Cases, read_case
from PromptSegLib.pretraining.checking import check_cases
from PromptSegLib.pretraining.finding import find_cases
from PromptSegLib.pretraining.recipe import Recipe
from PromptSegLib.pretraining.source import Source
from PromptSegLib.pretraining.synthesis import AIR, GAS, OUTSIDE, regions_of, smooth_noise, synthesized_from, thick
from PromptSegLib.pretraining.views import ZOOM, Views, collate


def source(folder: Path, **settings) -> Source:
    values = {"image": "{case}_ct.nii.gz", "label": "{case}_label.nii.gz", "classes": dict(CLASSES), **settings}
    values = {"name": "one", "folder": str(folder), "modality": "CT", "licence": "none", **values}
    return Source.from_dict({key: value for key, value in values.items() if value is not ...})


def recipe(*sources: Source, **settings) -> Recipe:
    settings = {"crop": (8, 16, 16), "small_crop": (4, 16, 16), "steps": 1, "taught": 0.0, "contrast": 0.0, **settings}
    return Recipe("tiny", "Tiny", "A phantom.", sources, preprocessing=PREPROCESSING, **settings)


def write(folder: Path, count: int = 2) -> None:
    for seed in range(count):
        image, label = phantom(seed=seed)
        sitk.WriteImage(image, str(folder / f"{seed}_ct.nii.gz"))
        sitk.WriteImage(label, str(folder / f"{seed}_label.nii.gz"))


def only(described: Recipe) -> Case:
    return read_case(described, find_cases(described)[0][0])


def views_of(described: Recipe, case: Case) -> Views:
    return Views(described, SimpleNamespace(draw=lambda rng, labeled: case, skipped={}))


def body(shape=(20, 30, 32)) -> tuple[np.ndarray, np.ndarray]:
    """A body in air, with a lung, two tissues and a labeled organ; image in [-1, 1] and label values."""
    image = np.full(shape, -1.0, np.float32)
    image[:, 4:-4, 4:-4] = 0.0
    image[:, 4:-4, 16:-4] = 0.6
    image[4:-4, 8:14, 8:14] = -1.0
    values = np.zeros(shape, np.uint8)
    values[6:14, 18:24, 18:24] = 7
    return image, values


def test_regions_are_air_gas_tissues_and_labels():
    image, values = body()
    regions = regions_of(image, values, np.random.default_rng(0))
    assert regions.dtype == np.uint8
    assert (regions[:, 0] == OUTSIDE).all() and (regions[6:14, 9:13, 9:13] == GAS).all()
    own = np.unique(regions[values == 7])
    assert len(own) == 1 and not (regions[values != 7] == own[0]).any()
    dim, bright = (set(np.unique(regions[:, 5:-5, part])) for part in (slice(5, 7), slice(26, 27)))
    assert not (dim & bright) and min(dim | bright) > GAS  # tissues of unlike intensity are never one region


def test_fat_of_which_single_voxels_are_as_dark_as_gas_is_one_tissue():
    """Fat of some CTs is at -115 HU, where a window that begins at -125 clips half of its noise."""
    image, values = body()
    image[:, 4:-4, 16:-4] = np.random.default_rng(0).normal(-0.9, 0.08, image[:, 4:-4, 16:-4].shape).clip(-1, 1)
    assert (image[:, 5:-5, 17:-5] <= AIR).mean() > 0.2
    regions = regions_of(image, values, np.random.default_rng(0))
    fat = regions[:, 6:-6, 18:-6]
    assert np.isin(fat, (OUTSIDE, GAS)).mean() < 0.02
    assert (regions[:, 0] == OUTSIDE).all() and (regions[6:14, 9:13, 9:13] == GAS).all()


def test_in_some_images_organs_look_alike_and_fat_apart():
    image, values = body((24, 60, 64))
    image[:, 4:-4, 40:-4] = -0.8  # fat
    values[6:18, 10:20, 24:32] = 9
    regions = regions_of(image, values, np.random.default_rng(0))
    organs, fat = [values == 7, values == 9], image == np.float32(-0.8)
    alike = 0
    for seed in range(120):
        drawn = synthesized_from(regions, image, np.random.default_rng(seed))
        one, other, apart = (float(np.median(drawn[where])) for where in (*organs, fat))
        alike += abs(one - other) < 0.15 * min(abs(one - apart), abs(other - apart))
    assert alike > 22  # 18 where every region is drawn for itself or as a curve of its own


def test_a_map_of_more_labels_than_regions_is_remapped():
    values = np.arange(600, dtype=np.uint16).reshape(6, 10, 10)
    regions = regions_of(None, values, np.random.default_rng(0))
    assert regions.max() == 255 and (regions == 0).sum() == 1


@pytest.mark.parametrize("with_image", [True, False])
def test_synthesized_images_follow_the_regions(with_image):
    image, values = body()
    regions = regions_of(image, values, np.random.default_rng(0))
    inside = np.zeros(values.shape, bool)
    inside[8:12, 20:22, 20:22] = True  # far from the organ's border
    darkest, organs = [], []
    for seed in range(40):
        drawn = synthesized_from(regions, image if with_image else None, np.random.default_rng(seed))
        assert drawn.shape == regions.shape and np.isfinite(drawn).all() and drawn.max() > drawn.min()
        low, high = np.percentile(drawn, (1, 99))
        share = (drawn - low) / (high - low)
        organs.append(float(share[inside].mean()))
        darkest.append(float(share[regions == OUTSIDE].mean()))
    assert np.std(organs) > 0.15  # any intensity
    assert np.median(darkest) < (0.3 if with_image else 0.6)  # air stays dark mostly
    one, two, other = (synthesized_from(regions, image, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_parts_of_one_class_mostly_look_alike():
    _, values = body()
    values[6:14, 18:24, 21:24] = 8
    regions = regions_of(None, values, np.random.default_rng(0))
    together, apart = np.arange(256), np.arange(256)
    together[2] = 1
    gaps = []
    for alike in (together, apart):
        drawn = [synthesized_from(regions, None, np.random.default_rng(seed), alike) for seed in range(40)]
        means = [(each[values == 7].mean() - each[values == 8].mean()) / np.ptp(each) for each in drawn]
        gaps.append(np.median(np.abs(means)))
    assert gaps[0] < 0.5 * gaps[1]


def test_thick_slices_and_noise():
    ramp = np.broadcast_to(np.arange(12.0)[:, None, None], (12, 5, 6)).astype(np.float32)
    slices = thick(ramp, 0, 3.0)
    assert slices.shape == ramp.shape and slices.mean() == pytest.approx(ramp.mean(), abs=1e-4)
    assert slices[0, 0, 0] == pytest.approx(1.0) and np.allclose(slices[4:8, 0, 0], np.arange(4, 8), atol=1e-4)
    noise = smooth_noise((20, 40, 40), 4, np.random.default_rng(0))
    assert 0.5 < noise.std() < 1.5 and np.abs(np.diff(noise, axis=2)).mean() < 0.5 * noise.std()


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"image": ...}, "label maps without images"),
        ({"image": ..., "synthetic": 0.5}, "label maps without images"),
        ({"image": ..., "label": ..., "synthetic": 1}, "label maps without images"),
        ({"image": ..., "synthetic": 1, "validation": ["0"]}, "cannot be validated"),
        ({"synthetic": 1.5}, '"synthetic" must lie between 0 and 1'),
        ({"partial": ["liver"]}, '"partial" names a class'),
        ({"classes": {"ball": []}}, "a class has no value"),
        ({"classes": {"ball": [5, 9], "rod": 9}}, "a whole number above 0 of its own"),
        ({"classes": {"ball": [5, "9"]}}, "an object of names and whole numbers"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, settings, said):
    with pytest.raises(ValueError, match=said):
        source(tmp_path, **settings)


def test_a_class_of_several_values_and_the_only_one(tmp_path):
    write(tmp_path, 1)
    described = recipe(source(tmp_path, classes={"thing": [5, 9]}, synthetic=1))
    files, _ = find_cases(described)
    assert check_cases(described, files, print) == (files, {})
    case = only(described)
    assert set(np.unique(case.label)) == {0, 1} and case.known.tolist() == [True]
    two = only(recipe(source(tmp_path)))
    assert np.array_equal(case.label > 0, two.label > 0)
    assert case.regions is not None and len({*np.unique(case.regions[case.label > 0])}) == 2  # each looks its own
    one, other = np.unique(case.regions[case.label > 0])
    assert case.alike[one] == case.alike[other] == one  # but mostly the same
    assert np.delete(case.alike, [one, other]).tolist() == np.delete(np.arange(256), [one, other]).tolist()
    sample = views_of(described, case)[3]
    assert sample["active"].tolist() == [0] and sample["large_label"].max() == 1


def test_label_maps_alone_are_cases_that_are_always_synthesized(tmp_path):
    write(tmp_path, 2)
    for path in tmp_path.glob("*_ct.nii.gz"):
        path.unlink()
    described = recipe(source(tmp_path, image=..., classes={"ball": 5}, synthetic=1), taught=1.0)
    files, _ = find_cases(described)
    assert [(file.name, file.image) for file in files] == [("0", None), ("1", None)]
    assert check_cases(described, files, print) == (files, {})  # 9, the rod, need not be declared
    cases = Cases(described, files)
    views = Views(described, cases)
    samples = [views[index] for index in range(6)]
    assert samples[0]["large"].shape == (1, 8, 16, 16) and samples[0]["teacher"].shape == (1, 8, 16, 16)
    for sample in samples:
        assert -3 < sample["large"].min() < sample["large"].max() < 3 and sample["known"].all()
    assert any(sample["large_label"].any() for sample in samples)
    collate(samples[:2])


def test_a_share_of_the_views_is_synthesized(tmp_path):
    write(tmp_path, 1)
    quiet = recipe(source(tmp_path, synthetic=0.5), foreground=1.0, all_classes=1.0)
    case = only(quiet)
    means = []
    for index in range(60):
        sample = views_of(quiet, case)[index]
        ball = sample["large_label"] == 1
        if ball.sum() > 20:
            means.append(float(sample["large"][0][ball].mean()))
    # The ball itself is at 0.47; half of the views show it as anything.
    usual = np.abs(np.asarray(means) - 0.47) < 0.35
    assert len(means) > 15 and 0.4 < usual.mean() < 0.9


def test_zoomed_views_know_where_their_voxels_are(tmp_path):
    shape = (30, 50, 60)
    described = recipe(source(tmp_path), zoom=1.0, variant="meta")
    places = np.stack(np.meshgrid(*(np.arange(extent) for extent in shape), indexing="ij"))
    spacings = []
    for axis in range(3):
        ramp = (places[axis] / shape[axis]).astype(np.float16)
        views = views_of(described, Case("", 0, ramp, np.zeros(shape, np.uint8), np.zeros(2, bool), {}))
        # Changes of intensity would hide the place; those of place stay.
        keep = [change for change in views.alone["large"][1].transforms if "Intensity" not in type(change).__name__]
        views.alone["large"][1].transforms = tuple(keep[:2])
        for index in range(12):
            sample = views[index]
            affine, image = sample["large_affine"].double(), sample["large"][0] * shape[axis]
            spacings.append(np.linalg.norm(affine[:3, :3].numpy(), axis=0))
            z, y, x = 4, 8, 8
            place = affine @ torch.tensor([z, y, x, 1.0], dtype=torch.float64)
            if all(6 < float(place[each]) < shape[each] - 7 for each in range(3)):
                assert float(image[z, y, x]) == pytest.approx(float(place[axis]), abs=0.3)
    found = np.asarray(spacings)
    assert found.min() > 0.6 * ZOOM[0] and found.max() < 1.4 * ZOOM[1]
    assert found.min() < 0.7 and found.max() > 1.2 and (found.max(1) / found.min(1)).max() > 1.5


def test_a_wide_window_shows_more_of_a_ct(tmp_path):
    image, label = phantom()
    array = sitk.GetArrayFromImage(image)
    array[:, :, :12] = -900.0
    array[:, :, 40:] = 900.0
    wide = sitk.GetImageFromArray(array)
    wide.CopyInformation(image)
    sitk.WriteImage(wide, str(tmp_path / "0_ct.nii.gz"))
    sitk.WriteImage(label, str(tmp_path / "0_label.nii.gz"))
    told = only(recipe(source(tmp_path), windows=1.0))
    assert told.limits[0] < -4 and told.limits[1] > 4
    clipped = only(recipe(source(tmp_path)))
    assert clipped.limits == (-1.0, 1.0)
    assert np.abs(np.clip(told.image, -1, 1) - clipped.image).max() < 0.01
    for described in (recipe(source(tmp_path), windows=1.0), recipe(source(tmp_path), windows=0.0)):
        views = views_of(described, told)
        samples = torch.stack([views[index]["large"] for index in range(20)])
        assert samples.abs().max() < 3  # every view is in a window
    narrow = [float(views_of(recipe(source(tmp_path)), told)[i]["large"].std()) for i in range(20)]
    broad = [float(views_of(recipe(source(tmp_path), windows=1.0), told)[i]["large"].std()) for i in range(20)]
    assert narrow != broad


def test_mr_is_read_by_its_own_range(tmp_path):
    write(tmp_path, 1)
    mr, ct = (only(recipe(source(tmp_path, modality=kind))) for kind in ("MR", "CT"))
    assert np.abs(mr.image.astype(float) - ct.image).max() > 0.1
    assert (mr.image.min(), mr.image.max()) == (-1, 1)


def test_of_a_body_for_mr_a_ct_keeps_its_window_so_that_its_tissues_are_told_apart(tmp_path):
    write(tmp_path, 1)
    window, anything = Preprocessing(PREPROCESSING.spacing), Preprocessing(PREPROCESSING.spacing, (0.5, 99.5), "range")
    seen = {
        (kind, rule.rule): only(replace(recipe(source(tmp_path, modality=kind)), preprocessing=rule)).image
        for kind in ("CT", "MR")
        for rule in (window, anything)
    }
    assert np.array_equal(seen["CT", "window"], seen["CT", "range"])
    assert np.array_equal(seen["MR", "window"], seen["MR", "range"])
    assert not np.array_equal(seen["CT", "range"], seen["MR", "range"])


def test_a_partly_labeled_class_is_known_between_its_labels_alone(tmp_path):
    shape = (60, 30, 30)
    label = np.zeros(shape, np.uint8)
    label[20:40, 10:20, 10:20] = 5
    for name, array in (("label", label), ("ct", label * 10.0)):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing((2.0, 2.0, 3.0))
        sitk.WriteImage(volume, str(tmp_path / f"0_{name}.nii.gz"))
    described = recipe(source(tmp_path, classes={"ball": 5}, partial=["ball"]), foreground=1.0)
    case = only(described)
    assert case.known.tolist() == [False] and case.slices == {1: (20, 39)} and case.label.any()
    views = views_of(described, case)
    seen = set()
    for index in range(40):
        sample = views[index]
        affine = sample["large_affine"].double()
        corners = np.array([[z, y, x, 1] for z in (0, 7) for y in (0, 15) for x in (0, 15)])
        heights = (affine.numpy() @ corners.T)[0]
        within = heights.min() >= 19 and heights.max() <= 40
        assert bool(sample["known"][0]) == within
        seen.add(within)
    assert seen == {True, False}


def test_a_map_with_all_the_regions_that_there_can_be_is_drawn():
    regions = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    for seed in range(12):  # half of them make one region more of what is not labeled
        drawn = synthesized_from(regions, None, np.random.default_rng(seed), np.arange(256))
        assert drawn.shape == regions.shape and np.isfinite(drawn).all()
