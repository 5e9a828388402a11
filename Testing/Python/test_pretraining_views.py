"""Views are a function of seed and step, and the loss counts what is labeled."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.pretraining_fixtures import loaded, quiet
from PromptSegLib.pretraining.cases import Case, Cases
from PromptSegLib.pretraining.finding import find_cases
from PromptSegLib.pretraining.objective import segmentation_loss
from PromptSegLib.pretraining.recipe import Recipe
from PromptSegLib.pretraining.views import Views, collate

pytest_plugins = ["harness.pretraining_fixtures"]


def views_of(recipe: Recipe) -> Views:
    return Views(recipe, Cases(recipe, find_cases(recipe)[0], quiet))


def test_views_are_a_function_of_seed_and_number(recipe):
    views = views_of(recipe)
    first = views[7]
    for other in range(3):
        views[other]
    again = views[7]
    assert first.keys() == again.keys()
    for key, value in first.items():
        assert torch.equal(value, again[key]) if isinstance(value, torch.Tensor) else value == again[key]
    assert not torch.equal(first["large"], views[8]["large"])
    seeds = [views_of(replace(recipe, seed=seed))[7]["large"] for seed in (0, 1)]
    assert not torch.equal(*seeds)


def test_views_hold_the_active_classes_alone(recipe):
    views = views_of(recipe)
    counts, known = set(), set()
    for index in range(0, 80, 2):
        pair = [views[index], views[index + 1]]
        assert torch.equal(pair[0]["active"], pair[1]["active"]), "the samples of a step ask for the same classes"
        batch = collate(pair)
        assert batch["large"].shape == (2, 1, 8, 16, 16) and batch["teacher"].shape == (2, 1, 8, 16, 16)
        assert batch["small"].shape == (2, 1, 4, 16, 16) and batch["small_label"].shape == (2, 4, 16, 16)
        assert int(batch["large_label"].max()) <= len(batch["active"])
        counts.add(len(batch["active"]))
        known |= {bool(each) for each in batch["known"].flatten()}
    assert counts == {1, 2} and known == {True, False}


def test_the_affine_of_a_view_says_where_its_voxels_are(values, tmp_path):
    """A volume of ramps whose intensity is the position: what a view shows must be where its affine says."""
    recipe = loaded(values, tmp_path, contrast=0.0)
    shape = (30, 50, 60)
    grid = np.stack(np.meshgrid(*(np.arange(extent) for extent in shape), indexing="ij"))
    known = np.zeros(2, bool)
    for axis in range(3):
        ramp = (grid[axis] / shape[axis]).astype(np.float16)
        case = Case("", 0, ramp, np.zeros(shape, np.uint8), known, {})
        views = Views(recipe, SimpleNamespace(draw=lambda rng, labeled, case=case: case, skipped={}))
        turned = 0
        for index in range(12):
            sample = views[index]
            affine = sample["teacher_affine"]
            image = sample["teacher"][0] * shape[axis]
            inner = [extent // 2 + np.arange(-2, 3) for extent in image.shape]
            for z, y, x in zip(*inner):
                place = affine @ torch.tensor([z, y, x, 1.0])
                assert float(image[z, y, x]) == pytest.approx(float(place[axis]), abs=0.12)
            turned += not torch.allclose(affine[:3, :3].abs(), torch.eye(3), atol=1e-3)
        assert turned, "no view was turned or stretched"


def complete(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return segmentation_loss(logits, label, torch.ones(len(label), logits.shape[1] - 1, dtype=torch.bool))


def test_the_loss_does_not_average_over_absent_classes():
    label = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    label[:, :2] = 1
    logits = torch.zeros(1, 4, 4, 4, 4)
    logits[:, 1, :2] = 20
    logits[:, 0, 2:] = 20
    assert float(complete(logits, label)) < 1e-2
    assert torch.isfinite(complete(logits, torch.zeros_like(label)))


def test_a_class_that_is_not_labeled_is_masked_not_background():
    label = torch.zeros(2, 4, 4, 4, dtype=torch.long)
    label[:, :2] = 1
    logits = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    known = torch.tensor([[True, False], [True, True]])
    loss = segmentation_loss(logits, label, known)
    claimed = logits.clone()
    claimed[:, 2, 2:] += 5  # the second class where nothing is labeled
    claimed[:, 0, 2:] -= 5
    after = segmentation_loss(claimed, label, known)
    assert float(after[0]) < float(loss[0]) + 0.3 and float(after[1]) > float(loss[1]) + 1
    blind = segmentation_loss(logits, torch.zeros_like(label), torch.zeros(2, 2, dtype=torch.bool))
    assert torch.allclose(blind, torch.zeros(2), atol=1e-5)
    together = segmentation_loss(logits[:1], label[:1], known[:1])
    assert torch.allclose(together, loss[:1]), "an image's loss depends on what else is in the batch"
