"""Scores on shapes whose distances and volumes are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from PromptSegLib.errors import PromptSegError
from PromptSegLib.evaluation.scores import format_table, score, to_json, volume_text


def volume(array: np.ndarray, spacing=(1.0, 1.0, 1.0)) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    return image


def cube(shift=(0, 0, 0), value=1, side=10, size=40) -> np.ndarray:
    """A cube of ``side`` voxels, shifted by whole voxels (z, y, x)."""
    array = np.zeros((size, size, size), np.uint8)
    box = tuple(slice(12 + step, 12 + step + side) for step in shift)
    array[box] = value
    return array


def test_identical_masks_are_perfect():
    entry = score(volume(cube()), volume(cube()), {"cube": 1})["cube"]
    assert (entry.dice, entry.surface_dice, entry.hausdorff95) == (1, 1, 0)
    assert entry.reference_ml == entry.predicted_ml == pytest.approx(1.0)


@pytest.mark.parametrize("axis, spacing", [(0, 5.0), (1, 2.0), (2, 0.5)])
def test_shifted_cubes_on_an_anisotropic_grid(axis, spacing):
    """A cube shifted along one axis by 4 voxels: every distance is known in mm."""
    shift = [0, 0, 0]
    shift[axis] = 4
    grid = (0.5, 2.0, 5.0)  # x, y, z
    entry = score(volume(cube(), grid), volume(cube(shift), grid), {"cube": 1}, tolerance_mm=0.1)["cube"]
    assert entry.dice == pytest.approx(0.6)
    # The far face, more than 5 % of the outer voxels, is 4 voxels away.
    assert entry.hausdorff95 == pytest.approx(4 * spacing)
    assert entry.reference_ml == entry.predicted_ml == pytest.approx(5.0)
    within = score(volume(cube(), grid), volume(cube(shift), grid), {"cube": 1}, tolerance_mm=4 * spacing + 0.01)
    assert within["cube"].surface_dice == pytest.approx(1)
    assert entry.surface_dice < 0.8


def test_surface_dice_does_not_depend_on_the_voxels():
    """Cubes of 30 mm, 4 mm apart along x, tolerance 2 mm: the same surface is out of reach on any grid."""
    # Per cube of 5400 mm²: the outer face, the other one but for its rim, 2 mm of the four walls.
    expected = 1 - (30**2 + 26**2 + 4 * 30 * 2) / (6 * 30**2)
    for step in ((1, 1, 1), (1, 1, 3), (1, 3, 1)):  # x, y, z mm
        arrays = np.zeros((2, *(48 // s for s in reversed(step))), np.uint8)
        for array, start in zip(arrays, (6, 10)):
            starts = (start, 6, 6)
            box = [slice(first // s, (first + 30) // s) for first, s in zip(starts, step)]
            array[tuple(reversed(box))] = 1
        entry = score(volume(arrays[0], step), volume(arrays[1], step), {"cube": 1}, tolerance_mm=2.0)["cube"]
        assert entry.surface_dice == pytest.approx(expected, abs=0.03)
        assert entry.hausdorff95 == pytest.approx(4)


def test_masks_at_the_volume_border_count_their_whole_surface():
    array = np.ones((8, 8, 8), np.uint8)
    other = array.copy()
    other[4:] = 0
    entry = score(volume(array), volume(other), {"all": 1})["all"]
    assert entry.hausdorff95 == pytest.approx(4, abs=1e-5)
    assert entry.dice == pytest.approx(2 / 3)


def test_absent_classes():
    reference, prediction = cube(value=1), np.maximum(cube(value=1), 0)
    reference[0, 0, 0] = 3
    prediction[39, 39, 39] = 4
    classes = {"there": 1, "nowhere": 2, "missed": 3, "invented": 4}
    scores = score(volume(reference), volume(prediction), classes)
    assert scores["nowhere"].absent and scores["nowhere"].surface_dice is None
    assert scores["missed"].dice == scores["invented"].dice == 0
    assert scores["missed"].hausdorff95 is None and scores["missed"].predicted_ml == 0
    table = format_table(scores)
    lines = table.splitlines()
    assert lines[-1] == "Absent from both: nowhere"
    assert len({len(line) for line in lines[:-1]}) == 1
    mean = next(line for line in lines if line.startswith("Mean"))
    assert "0.333" in mean  # of three classes, the absent one does not enter
    record = json.loads(json.dumps(to_json(scores)))
    assert record["absent"] == ["nowhere"] and record["classes"]["missed"]["hausdorff95"] is None
    assert record["mean"]["dice"] == pytest.approx(1 / 3)


def test_a_volume_of_tiny_voxels_is_no_zero():
    labels = volume(cube(), (0.05, 0.05, 0.05))
    line = format_table(score(labels, labels, {"cube": 1})).splitlines()[2]
    assert line.split()[-2:] == ["0.000125"] * 2
    shown = [volume_text(ml, places) for places in (1, 3) for ml in (1234.56, 7.25, 0.5, 0.0421, 0.0)]
    assert shown == ["1234.6", "7.2", "0.500", "0.0421", "0.0", "1234.560", "7.250", "0.500", "0.0421", "0.000"]


def test_nothing_at_all_has_no_mean():
    scores = score(volume(cube(value=0)), volume(cube(value=0)), {"nowhere": 1})
    assert to_json(scores)["mean"]["dice"] is None
    assert "Mean" in format_table(scores)


def test_other_grids_are_refused():
    reference = volume(cube())
    shifted = volume(cube())
    shifted.SetOrigin((0, 0, 1))
    with pytest.raises(PromptSegError, match="resample the prediction"):
        score(reference, shifted, {"cube": 1})
    with pytest.raises(PromptSegError, match="resample the prediction"):
        score(reference, volume(cube(), (1, 1, 1.01)), {"cube": 1})


@pytest.mark.parametrize(
    "image, says",
    [
        (sitk.Image([4, 4, 4, 2], sitk.sitkUInt8), "dimensions"),
        (sitk.Image([4, 4, 4], sitk.sitkFloat32), "integer"),
        (sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3), "components"),
    ],
)
def test_volumes_that_are_no_labels_are_refused(image, says):
    labels = sitk.Image([4, 4, 4], sitk.sitkUInt8)
    with pytest.raises(PromptSegError, match=says):
        score(labels, image, {"cube": 1})
    with pytest.raises(PromptSegError, match=says):
        score(image, labels, {"cube": 1})


@pytest.mark.parametrize("classes", [{}, {"a": 0}, {"a": -1}, {"a": 1, "b": 1}, {"a": 1.5}])
def test_unusable_label_values_are_refused(classes):
    with pytest.raises(PromptSegError):
        score(volume(cube()), volume(cube()), classes)
