"""Refusals: one sentence for every image, annotation or set of examples that cannot be used."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from harness.refusals import sentence
from PromptSegLib.annotation.checking import check_examples
from PromptSegLib.annotation.example import Example
from PromptSegLib.imaging.checking import check_grid, check_image, check_size
from PromptSegLib.imaging.geometry import Grid

CLASSES = {"liver": 1, "spleen": 2}
GRID = Grid((12, 11, 10), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0))


def image(grid: Grid = GRID) -> sitk.Image:
    return grid.image(np.random.default_rng(0).integers(-100, 100, grid.shape).astype(np.int16))


def annotation(*values: int, grid: Grid = GRID, dtype=np.uint8) -> sitk.Image:
    """One slice painted with each value."""
    voxels = np.zeros(grid.shape, dtype)
    for z, value in enumerate(values):
        voxels[z, 2:5] = value
    return grid.image(voxels)


def check_example(example: Example, classes: dict[str, int]) -> None:
    check_examples([example], classes)


def test_good_images():
    check_image(image(), "ct")
    check_image(sitk.Cast(image(), sitk.sitkFloat64), "ct")


def changed(value: float, dtype=np.float32) -> sitk.Image:
    voxels = np.arange(1320, dtype=dtype).reshape(10, 11, 12)
    voxels[3, 4, 5] = value
    return sitk.GetImageFromArray(voxels)


def with_spacing(spacing: float) -> sitk.Image:
    one = image()
    one.SetSpacing((spacing, 1.0, 1.0))
    return one


def sheared() -> sitk.Image:
    one = image()
    one.SetDirection((1.0, 0.2, 0, 0, 1, 0, 0, 0, 1))
    return one


@pytest.mark.parametrize(
    "make, word",
    [
        (lambda: sitk.GetImageFromArray(np.zeros((2, 3, 4, 5), np.int16), isVector=False), "4 dimensions"),
        (lambda: sitk.GetImageFromArray(np.zeros((4, 5), np.int16)), "single slice"),
        (lambda: sitk.GetImageFromArray(np.zeros((4, 5, 1), np.int16)), "single slice"),
        (lambda: sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True), "3 values per voxel"),
        (lambda: sitk.Cast(image(), sitk.sitkComplexFloat32), "complex"),
        (lambda: sitk.Image(0, 4, 4, sitk.sitkInt16), "no voxels"),
        (lambda: changed(np.nan), "NaN"),
        (lambda: changed(np.inf), "infinite"),
        (lambda: changed(-np.inf, np.float64), "infinite"),
        (lambda: changed(1e302, np.float64), "no intensities"),
        (lambda: changed(-1e33), "no intensities"),
        (lambda: sitk.Cast(image(), sitk.sitkFloat64) * 1e-200, "same intensity"),
        (lambda: sitk.Cast(image(), sitk.sitkFloat64) + 1e9, "single precision"),
        (lambda: sitk.Image(4, 4, 4, sitk.sitkInt16), "same intensity"),
        (lambda: with_spacing(np.nan), "spacing"),
        (sheared, "perpendicular"),
        (lambda: with_spacing(1e4), "check the voxel spacing"),
    ],
)
def test_bad_images(make, word):
    one = make()
    sentence(lambda: check_image(one, "ct-7"), "ct-7", word)


# SimpleITK refuses to build these.
@pytest.mark.parametrize(
    "change, word",
    [
        ({"spacing": (0.0, 1.0, 1.0)}, "spacing"),
        ({"spacing": (1.0, -1.0, 1.0)}, "spacing"),
        ({"spacing": (1.0, 1.0, np.inf)}, "spacing"),
        ({"origin": (0.0, np.nan, 0.0)}, "origin"),
        ({"direction": (1.0, 0, 0, 0, 1, 0, 0, 0, 0)}, "perpendicular"),
        ({"direction": (np.nan,) * 9}, "perpendicular"),
    ],
)
def test_bad_grids(change, word):
    parts = {"size": (4, 4, 4), "spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0), **change}
    sentence(lambda: check_grid("ct-7", Grid(**parts)), "ct-7", word)


UNITS = {
    "micrometers of a micro-CT": ((400, 400, 300), (20.0, 20.0, 20.0)),
    "micrometers of a CT": ((512, 512, 100), (700.0, 700.0, 3000.0)),
    "micrometers of a mouse": ((110, 110, 110), (100.0, 100.0, 100.0)),
    "micrometers along one axis": ((512, 512, 100), (0.7, 0.7, 3000.0)),
    "hundredths of a millimeter along one axis": ((512, 512, 100), (0.7, 0.7, 300.0)),
    "tenths of a millimeter of a CT": ((512, 512, 300), (7.0, 7.0, 15.0)),
    "meters of a CT": ((512, 512, 100), (0.0007, 0.0007, 0.003)),
    "meters of a whole body": ((200, 200, 600), (0.004, 0.004, 0.003)),
    "meters along one axis": ((512, 512, 100), (0.7, 0.7, 0.002)),
    "meters of a mouse": ((110, 110, 110), (0.0001, 0.0001, 0.0001)),
    "nanometers of a microscope": ((512, 512, 50), (200.0, 200.0, 1000.0)),
}
SIZES = {
    "a mouse": ((110, 110, 110), (0.1, 0.1, 0.1)),
    "a tooth": ((80, 80, 90), (0.125, 0.125, 0.125)),
    "a micro-CT in mm": ((400, 400, 300), (0.02, 0.02, 0.02)),
    "a whole body": ((700, 500, 2000), (1.0, 1.0, 1.0)),
    "a very long strip": ((10_000, 300, 8), (1.0, 1.0, 1.0)),
    "thick slices": ((512, 512, 4), (0.5, 0.5, 20.0)),
    "two slices": ((256, 256, 2), (0.5, 0.5, 0.5)),
    "a crop": ((4, 4, 4), (1.0, 1.0, 1.0)),
    "a row": ((100, 2, 2), (1.0, 1.0, 1.0)),
    "an elephant": ((600, 600, 800), (2.0, 2.0, 5.0)),
}


@pytest.mark.parametrize("size, spacing", UNITS.values(), ids=UNITS)
def test_a_spacing_in_another_unit(size, spacing):
    """Before anything is made of the voxels, of which there are none here."""
    sentence(lambda: check_size("ct-7", Grid(size, spacing, (0.0, 0.0, 0.0))), "ct-7", "check the voxel spacing")


@pytest.mark.parametrize("size, spacing", SIZES.values(), ids=SIZES)
def test_sizes_that_are_right(size, spacing):
    check_size("ct-7", Grid(size, spacing, (0.0, 0.0, 0.0)))


@pytest.mark.parametrize("value", [1e302, -1e302, 3.5e38, -1e31, 1.7e308])
def test_values_that_single_precision_does_not_hold(value):
    sentence(lambda: check_image(changed(value, np.float64), "ct-7"), "ct-7", "no intensities")


def test_values_that_differ_less_than_single_precision_tells():
    one = sitk.GetImageFromArray(1e12 + np.arange(1320.0).reshape(10, 11, 12))
    sentence(lambda: check_image(one, "ct-7"), "same intensity")


@pytest.mark.parametrize(
    "values, options",
    [
        ((1, 2), {}),
        ((1, 2, 9, 7), {"background": 9}),
        ((1, 2), {"complete": True}),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_good_examples(values, options, dtype):
    check_example(Example(image(), annotation(*values, dtype=dtype), **options), CLASSES)


def test_one_class_needs_a_counterpart():
    only = {"liver": 1}
    check_example(Example(image(), annotation(1, 9), background=9), only)
    check_example(Example(image(), annotation(1), complete=True), only)
    sentence(lambda: check_example(Example(image(), annotation(1)), only), "Only liver", "background")
    sentence(lambda: check_example(Example(image(), annotation(1, 7), background=9), only), "Only liver")
    full = GRID.image(np.ones(GRID.shape, np.uint8))
    sentence(lambda: check_example(Example(image(), full, complete=True), only), "Only liver")


@pytest.mark.parametrize(
    "values, words",
    [
        ((), ("ct-7", "is empty")),
        ((7, 8), ("ct-7", "liver = 1, spleen = 2", "7, 8")),
        ((9,), ("ct-7", "none of the classes")),
        ((1,), ("spleen is not painted", "ct-7", "--classes")),
    ],
)
def test_annotations_without_the_classes(values, words):
    one = Example(image(), annotation(*values), background=9, name="ct-7")
    sentence(lambda: check_example(one, CLASSES), *words)


def test_several_missing_classes_are_named_together():
    one = Example(image(), annotation(1, 9), background=9)
    sentence(lambda: check_example(one, {**CLASSES, "aorta": 3}), "spleen, aorta are not painted")


@pytest.mark.parametrize(
    "classes, background, word",
    [
        ({}, None, "No classes"),
        ({"liver": 0}, None, "0 means unannotated"),
        ({"liver": -1}, None, "-1"),
        ({"liver": 1, "spleen": 1}, None, "liver and spleen"),
        ({"liver": 1, "spleen": 2}, 2, "both the background and the class spleen"),
        ({"liver": 1}, 0, "background value is 0"),
    ],
)
def test_values_that_cannot_be_told_apart(classes, background, word):
    one = Example(image(), annotation(1, 2), background=background)
    sentence(lambda: check_example(one, classes), word)


def test_annotations_of_the_wrong_kind():
    for wrong, word in (
        (sitk.Cast(annotation(1, 2), sitk.sitkFloat32), "whole numbers"),
        (sitk.GetImageFromArray(np.ones((3, 4, 5, 2), np.uint8), isVector=True), "2 values per voxel"),
        (sitk.GetImageFromArray(np.ones((2, 3, 4, 5), np.uint8), isVector=False), "4 dimensions"),
        (sitk.GetImageFromArray(np.ones((4, 5), np.uint8)), "single slice"),
        (sitk.Image(0, 4, 4, sitk.sitkUInt8), "no voxels"),
    ):
        one = Example(image(), wrong, name="ct-7")
        sentence(lambda: check_example(one, CLASSES), "The annotation of ct-7", word)  # noqa: B023


def test_an_annotation_of_one_slice_is_fine():
    voxels = np.zeros((1, 11, 12), np.uint8)
    voxels[0, 0], voxels[0, 1] = 1, 2
    check_example(Example(image(), sitk.GetImageFromArray(voxels)), CLASSES)


def test_annotation_outside_the_image():
    def at(x: float, **options) -> Example:
        grid = Grid(GRID.size, GRID.spacing, (x, 0.0, 0.0))
        return Example(image(), annotation(1, 2, grid=grid), name="ct-7", **options)

    check_example(at(4), CLASSES)
    for options in ({}, {"complete": True}):
        partly, wholly = at(8, **options), at(500, **options)
        sentence(lambda: check_example(partly, CLASSES), "67% of", "ct-7", "different patients")  # noqa: B023
        sentence(lambda: check_example(wholly, CLASSES), "All of", "different patients")  # noqa: B023


def test_a_set_of_examples():
    liver = Example(image(), annotation(1), name="a")
    spleen = Example(image(), annotation(2), name="b")
    background = Example(image(), annotation(9), background=9, name="c")
    empty = Example(image(), annotation(7), name="d")
    check_examples([liver, spleen], CLASSES)
    check_examples([liver, background], {"liver": 1})
    sentence(lambda: check_examples([], CLASSES), "No examples")
    sentence(lambda: check_examples([liver, background], CLASSES), "spleen is not painted in any of the annotations")
    sentence(lambda: check_examples([liver, liver], {"liver": 1}), "Only liver")
    sentence(lambda: check_examples([liver, spleen, empty], CLASSES), "annotation of d")
    sentence(
        lambda: check_examples([liver, Example(changed(np.nan), annotation(2), name="e")], CLASSES), "e has", "NaN"
    )
