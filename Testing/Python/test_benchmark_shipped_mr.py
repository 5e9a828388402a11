"""The bench of prompts on MR: what its stand-ins look like, and that it counts as it says."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import SimpleITK as sitk

from harness.tiny_model import tiny_backbone
from PromptSegLib.models.backbone import load_model


def labeled_ct() -> tuple[sitk.Image, sitk.Image]:
    """Air, fat at the window's end with noise, muscle, two organs; HU from -125."""
    rng = np.random.default_rng(0)
    hu = np.full((16, 48, 56), -125.0)
    hu[:, 4:-4, 4:-4] = -112
    hu[:, 12:-12, 12:-12] = 55
    labels = np.zeros(hu.shape, np.uint8)
    labels[4:12, 16:24, 16:26], labels[4:12, 16:24, 30:40] = 6, 1
    inside = hu > -125
    hu[inside] = (hu + rng.normal(0, 10, hu.shape))[inside]
    images = [sitk.GetImageFromArray(each) for each in (hu.clip(-125, 275).astype(np.float32), labels)]
    for image in images:
        image.SetSpacing((1.5, 1.5, 3.0))
        image.SetOrigin((5.0, -6.0, 7.0))
    return images[0], images[1]


@pytest.mark.parametrize("weighting", ["T2", "T1", "T2, fat dark"])
def test_a_stand_in_has_the_tissues_of_its_weighting_and_the_grid_of_the_ct(benchmark_module, weighting):
    module = benchmark_module("stand_ins")
    ct, labels = labeled_ct()
    drawn = module.stand_in(ct, labels, weighting)
    assert drawn.GetSpacing() == ct.GetSpacing() and drawn.GetOrigin() == ct.GetOrigin()
    array, organs = sitk.GetArrayFromImage(drawn) / 700, sitk.GetArrayFromImage(labels)
    fat, muscle, _, of_organs = module.WEIGHTINGS[weighting]
    assert array[:, 0].mean() < 0.05
    for where, value in (
        ((slice(4, 12), slice(6, 10), slice(6, 50)), fat),
        ((slice(4, 12), slice(28, 34), slice(16, 40)), muscle),
        (organs == 6, of_organs[5]),
        (organs == 1, of_organs[0]),
    ):
        assert np.median(array[where]) == pytest.approx(value, rel=0.35, abs=0.03)
    assert (array[4:12, 6:10, 6:50] < fat / 2).mean() < 0.02  # no voxel of noisy fat is taken for gas
    assert np.array_equal(sitk.GetArrayFromImage(module.stand_in(ct, labels, weighting)) / 700, array)


def test_thick_slices_lie_where_the_thin_ones_lay(benchmark_module):
    """Means of slices at the mean of their places; labels are not mixed."""
    ct, labels = labeled_ct()
    image, thick = benchmark_module("stand_ins").as_thick_slices(ct, labels, 9.0)
    assert image.GetSize() == thick.GetSize() == (56, 48, 5) and image.GetSpacing() == (1.5, 1.5, 9.0)
    assert image.GetOrigin() == pytest.approx((5.0, -6.0, 10.0)) == thick.GetOrigin()
    thin = sitk.GetArrayFromImage(ct)
    assert np.allclose(sitk.GetArrayFromImage(image)[1], thin[3:6].mean(0), atol=1e-3)
    assert np.array_equal(sitk.GetArrayFromImage(thick), sitk.GetArrayFromImage(labels)[1:15:3])


def test_the_table_counts_the_four_and_every_class(benchmark_module, tmp_path, monkeypatch, capsys):
    module = benchmark_module("shipped_mr")
    tiny_backbone(tmp_path, shipped=True)
    backbone = load_model(str(tmp_path / "tiny0.safetensors"), "cpu")
    assert backbone.shipped is not None
    names = backbone.shipped.names
    ct, labels = labeled_ct()
    classes = {names[0]: 6, names[1]: 1}
    monkeypatch.setattr(module, "FOUR", (*names[:2], "left kidney"))
    labels = sitk.ChangeLabel(labels, {1: 0})  # without the second
    monkeypatch.setattr(module, "cases", lambda data: iter([("one", ct, labels, classes)]))
    monkeypatch.setattr(sys, "argv", ["shipped_mr", "--model", str(tmp_path / "tiny0.safetensors"), "--threads", "1"])
    assert module.main() == 0
    row = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].strip("|").split("|")]
    guess = sitk.GetArrayFromImage(module.segment(backbone.shipped, ct, backbone).labels)
    one, truth = guess == backbone.shipped.values[names[0]], sitk.GetArrayFromImage(labels) == 6
    expected = 2 * (one & truth).sum() / (one.sum() + truth.sum())
    other = (guess == backbone.shipped.values[names[1]]).any()
    assert row[0] == "one" and float(row[1]) == pytest.approx(expected, abs=6e-4)
    assert row[2] == ("0.000" if other else "") and row[3] == ""
    assert float(row[4].strip("*")) == pytest.approx(expected / (1 + other), abs=6e-4)


def test_a_model_that_is_not_there_is_one_sentence(benchmark_module, monkeypatch, capsys):
    module = benchmark_module("shipped_mr")
    monkeypatch.setattr(sys, "argv", ["shipped_mr", "--model", "none"])
    assert module.main() == 1 and "none" in capsys.readouterr().out
