"""Intensities as a model sees them."""

from __future__ import annotations

import numpy as np
import pytest

from PromptSegLib.examples.preprocessing import Preprocessing

CT = Preprocessing((3.0, 2.0, 2.0), (-125.0, 275.0))


def torso(seed: int = 0) -> np.ndarray:
    """Half air, the rest soft tissue with some bone, in HU."""
    rng = np.random.default_rng(seed)
    array = np.full((20, 40, 40), -1000.0, np.float32)
    array[:, 10:30] = rng.normal(40, 60, (20, 20, 40))
    array[:, 28:30] = 900
    return array


def test_a_ct_is_mapped_by_the_fixed_window():
    assert CT.limits(torso()) == (-125.0, 275.0)
    normal = CT.normalize(np.array([[[-1000.0, -125.0, 75.0, 275.0, 3000.0]]], np.float32))
    padded = CT.normalize(torso())
    assert normal.dtype == padded.dtype == np.float32 and padded.min() == -1 and padded.max() == 1


def test_the_window_maps_linearly():
    array = torso()
    array[0, 15, :3] = (-125.0, 75.0, 275.0)
    assert np.allclose(CT.normalize(array)[0, 15, :3], (-1.0, 0.0, 1.0), atol=1e-6)


@pytest.mark.parametrize(
    "change", [lambda a: a + 3000, lambda a: a * 1e-4, lambda a: a - 5000, lambda a: 10 * a + 12000]
)
def test_an_image_on_another_scale_keeps_its_contrast(change):
    normal = CT.normalize(change(torso()))
    assert normal.std() > 0.2 and (np.abs(normal) < 1).mean() > 0.3


def test_percentiles_are_the_rule_of_other_models():
    rule = Preprocessing((1.0, 1.0, 1.0), (1.0, 99.0), "percentile")
    low, high = rule.limits(torso())
    assert low == -1000 and high == pytest.approx(900)
    assert Preprocessing.from_dict(rule.to_dict()) == rule
