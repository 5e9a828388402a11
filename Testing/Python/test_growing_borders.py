"""Which border the image supports, and that growing takes it."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from PromptSegLib.annotation.classes import describe
from PromptSegLib.annotation.example import Example
from PromptSegLib.growing.borders import CLEARLY_BETTER, CLEARLY_WORSE, border_cost, border_of_plain
from PromptSegLib.growing.guard import Verdict
from PromptSegLib.growing.inputs import REGION, Ground
from PromptSegLib.inference import regions
from PromptSegLib.inference.stroke_regions import segment_strokes

SHAPE = (24, 40, 40)
BOX = (slice(6, 18), slice(10, 30), slice(10, 30))
WITHIN = (slice(9, 15), slice(14, 26), slice(14, 26))
BACKGROUND = 9


def scene(slope=1.0, shift=0.0):
    """A box that is told apart by its edges, its strokes on three slices, and background around."""
    truth = np.zeros(SHAPE, bool)
    truth[BOX] = True
    array = np.where(truth, 100.0, 0.0) + np.random.default_rng(0).normal(0, 4, SHAPE)
    strokes = np.full(SHAPE, -1, np.int16)
    for z in (8, 12, 16):
        strokes[z, 14:26, 20] = 1
        strokes[z, 4, 4:36] = strokes[z, 36, 4:36] = 0
    return (array * slope + shift).astype(np.float32), strokes, truth


def mask(box):
    found = np.zeros(SHAPE, bool)
    found[box] = True
    return found


@pytest.mark.parametrize(("slope", "shift"), [(1, 0), (-0.01, 3), (1000, -5000), (1e25, 0), (1e-25, 0)])
def test_a_border_on_the_edges_is_preferred_whatever_the_unit(slope, shift):
    array, strokes, truth = scene(slope, shift)
    ground = Ground.of(array, strokes, (1.0, 1.0, 1.0))
    assert border_of_plain(ground, 1, mask(WITHIN)) < CLEARLY_BETTER  # smooth, smaller, but amid the tissue
    assert border_of_plain(ground, 1, truth) == pytest.approx(1, abs=0.05)


def test_a_ragged_border_is_not_preferred():
    array, strokes, truth = scene()
    ground = Ground.of(array, strokes, (1.0, 1.0, 1.0))
    holes = np.random.default_rng(1).random(SHAPE) < 0.3
    ground.grown[:] = truth & ~holes
    assert border_of_plain(ground, 1, truth) > CLEARLY_WORSE
    assert border_of_plain(ground, 1, mask(WITHIN)) > CLEARLY_WORSE


def test_an_empty_region_is_not_compared():
    array, strokes, _ = scene()
    ground = Ground.of(array, strokes, (1.0, 1.0, 1.0))
    assert border_of_plain(ground, 1, np.zeros(SHAPE, bool)) == 1
    assert border_of_plain(ground, 2, mask(BOX)) == 1
    flat = Ground.of(np.zeros(SHAPE, np.float32), strokes, (1.0, 1.0, 1.0))
    assert border_of_plain(flat, 1, flat.grown == 1) == 1
    assert border_of_plain(flat, 1, np.ones(SHAPE, bool)) == 1  # of which all is border of the image


def test_without_edges_a_border_costs_its_area():
    changes = [np.zeros(tuple(np.subtract(SHAPE, np.eye(3, dtype=int)[axis])), np.float32) for axis in range(3)]
    z, y, x = (side.stop - side.start for side in BOX)
    spacing = (3.0, 0.5, 1.0)
    area = 2 * (y * x * 0.5 + z * x * 3.0 + z * y * 1.5)
    assert border_cost(mask(BOX), changes, 1.0, spacing) == pytest.approx(area)


class Shrunken(torch.nn.Module):
    """A network that is certain of far too little, of all of which the painted slices agree."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, questions, steps):
        inner = -torch.nn.functional.max_pool3d(-questions[:, REGION : REGION + 1], (5, 7, 7), 1, (2, 3, 3))
        return torch.where(questions[:, 3:4] > 0, 1.0, inner) * 5


@pytest.mark.parametrize("quick", [True, False])
def test_a_network_that_misses_the_edges_is_not_used(quick, monkeypatch):
    array, strokes, truth = scene()
    image = sitk.GetImageFromArray(array)
    painted = sitk.GetImageFromArray(np.where(strokes == 0, BACKGROUND, np.maximum(strokes, 0)).astype(np.uint8))
    monkeypatch.setattr(regions, "growing_network", Shrunken)
    example = Example(image, painted, BACKGROUND)
    found = segment_strokes(example, [describe("one", 1)], quick=quick)
    labels = sitk.GetArrayFromImage(found.labels) == 1
    assert 2 * (labels & truth).sum() / (labels.sum() + truth.sum()) > 0.97
    assert "one" in found.notes[0]
    asked = segment_strokes(example, [describe("one", 1)], quick=quick, verdicts=[Verdict.LEARNED])
    assert (sitk.GetArrayFromImage(asked.labels) == 1).sum() < 0.6 * truth.sum()  # what is asked for is not judged
