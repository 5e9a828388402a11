"""The baselines that PromptSeg is compared with work on a phantom."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from PromptSegLib.errors import PromptSegError
from PromptSegLib.evaluation.scores import score
from PromptSegLib.evaluation.scribbles import scribble

CLASSES = {"bright": 3, "dark": 5}
BACKGROUND = 255


@pytest.fixture(scope="module")
def baselines():
    path = Path(__file__).resolve().parents[1] / "Benchmark" / "baselines.py"
    spec = importlib.util.spec_from_file_location("promptseg_baselines", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def case():
    """A bright ball and a dark one in noise: image, reference and scribbles, oblique and anisotropic."""
    shape, spacing = (24, 48, 48), (1.5, 1.5, 3.0)
    z, y, x = np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing[::-1])], indexing="ij")
    labels = np.zeros(shape, np.uint8)
    labels[(z - 36) ** 2 + (y - 36) ** 2 + (x - 20) ** 2 < 14**2] = 3
    labels[(z - 36) ** 2 + (y - 36) ** 2 + (x - 52) ** 2 < 12**2] = 5
    means = np.array([0, 0, 0, 100, 0, -100], np.float32)
    intensities = means[labels] + np.random.default_rng(0).normal(0, 5, shape)
    images = [sitk.GetImageFromArray(intensities.astype(np.int16)), sitk.GetImageFromArray(labels)]
    for image in images:
        image.SetSpacing(spacing)
        image.SetOrigin((-10, 20, 30))
        image.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))
    return (*images, scribble(images[1], CLASSES, BACKGROUND, background_share=0.01))


def test_grow_from_seeds(baselines, case):
    pytest.importorskip("slicer", reason="slicer-core is not installed")
    image, reference, annotation = case
    grown = baselines.grow_from_seeds(image, annotation)
    scores = score(reference, grown, CLASSES)
    assert all(entry.dice > 0.95 for entry in scores.values())
    seeds, labels = sitk.GetArrayFromImage(annotation), sitk.GetArrayFromImage(grown)
    assert (labels[seeds > 0] == seeds[seeds > 0]).all()
    assert BACKGROUND in labels


def test_random_forest(baselines, case):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    image, reference, annotation = case
    found = baselines.random_forest(image, annotation, trees=20)
    assert found.GetPixelID() == annotation.GetPixelID()
    assert all(entry.dice > 0.8 for entry in score(reference, found, CLASSES).values())
    again = baselines.random_forest(image, annotation, trees=20)
    assert (sitk.GetArrayFromImage(again) == sitk.GetArrayFromImage(found)).all()
    placed = baselines.random_forest(image, annotation, trees=20, coordinates=True)
    assert all(entry.dice > 0.8 for entry in score(reference, placed, CLASSES).values())


@pytest.mark.parametrize("method", ["grow_from_seeds", "random_forest"])
def test_unusable_annotations_are_refused(baselines, case, method):
    pytest.importorskip({"grow_from_seeds": "slicer", "random_forest": "sklearn"}[method])
    image, _, annotation = case
    with pytest.raises(PromptSegError, match="fewer than two"):
        getattr(baselines, method)(image, sitk.Cast(annotation == 3, sitk.sitkUInt8))
    moved = sitk.Image(annotation)
    moved.SetOrigin((0, 0, 0))
    with pytest.raises(PromptSegError, match="grid"):
        getattr(baselines, method)(image, moved)
