"""Pretraining: views are a function of seed and step, a killed run resumes with the same curve, ranks agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import load_file
from tiny import CLASSES, phantom

from PromptSegLib.errors import PromptSegError
from PromptSegLib.models.backbone import load_model
from PromptSegLib.network.config import NetworkConfig
from PromptSegLib.pretraining.cases import load_cases
from PromptSegLib.pretraining.publish import publish
from PromptSegLib.pretraining.recipe import Recipe
from PromptSegLib.pretraining.run import Pretraining, segmentation_loss
from PromptSegLib.pretraining.views import augmentation, draw_view

RECIPES = Path(__file__).parents[2] / "PromptSegLib" / "pretraining" / "recipes"


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    for index in range(3):
        image, reference = phantom(seed=index)
        sitk.WriteImage(image, str(tmp_path / f"case{index}_ct.nii.gz"))
        sitk.WriteImage(reference, str(tmp_path / f"case{index}_label.nii.gz"))
    values = {
        "name": "tiny",
        "title": "Tiny",
        "modality": "CT",
        "licence": "none",
        "data": str(tmp_path),
        "image_suffix": "_ct.nii.gz",
        "label_suffix": "_label.nii.gz",
        "training": ["case0", "case1"],
        "validation": ["case2"],
        "classes": CLASSES,
        "card": "A phantom.",
        "network": {"channels": [16, 16, 32], "head_channels": 8, "tokens": 4},
        "preprocessing": {"spacing": [3, 2, 2], "intensity": [-100, 200]},
        "crop": [8, 16, 16],
        "batch": 2,
        "steps": 6,
    }
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(values))
    return Recipe.load(path)


def quiet(_: str) -> None:
    pass


def trained(recipe: Recipe, folder: Path, stops: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    """The checkpoint of a run that was stopped at each of ``stops`` and resumed."""
    for stop in (*stops, None):
        run = Pretraining(recipe, folder, log=quiet)
        run.run(stop=(lambda run=run, stop=stop: run.step >= stop) if stop else None)
    return load_file(str(folder / "checkpoint.safetensors"))


def test_a_stopped_run_resumes_with_the_same_curve(recipe, tmp_path):
    straight = trained(recipe, tmp_path / "straight")
    resumed = trained(recipe, tmp_path / "resumed", stops=(2, 5))
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    moved = [name for name in straight if name.startswith("now.") and "stem" in name]
    assert moved and not torch.equal(straight[moved[0]], straight[moved[0].replace("now.", "average.")])


def test_two_gloo_ranks_take_the_single_process_steps(recipe, tmp_path):
    recipe_path = tmp_path / "tiny.json"
    single = trained(replace(recipe, steps=2), tmp_path / "single")
    script = tmp_path / "ranks.py"
    script.write_text(
        "import sys, torch; torch.set_num_threads(1)\n"
        "from dataclasses import replace\nfrom pathlib import Path\n"
        "import torch.distributed as d; d.init_process_group('gloo')\n"
        "from PromptSegLib.pretraining.recipe import Recipe\nfrom PromptSegLib.pretraining.run import Pretraining\n"
        "recipe = replace(Recipe.load(Path(sys.argv[1])), steps=2)\n"
        "Pretraining(recipe, Path(sys.argv[2]), log=lambda line: None).run()\n"
        "d.destroy_process_group()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [*command, str(recipe_path), str(tmp_path / "double")],
        cwd=root,
        # gloo looks for an address by the host's name, which not every machine can resolve at every time.
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    double = load_file(str(tmp_path / "double" / "checkpoint.safetensors"))
    for name, tensor in single.items():
        if name.startswith("now."):
            assert torch.allclose(tensor, double[name], atol=2e-4), name


def test_views_are_a_function_of_seed_and_step(recipe):
    cases = load_cases(recipe, recipe.training)
    transform = augmentation(recipe)
    first = draw_view(recipe, cases, transform, 7)
    for other in range(3):
        draw_view(recipe, cases, transform, other)
    again = draw_view(recipe, cases, transform, 7)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert np.array_equal(first[2], again[2]) and first[3] == again[3]
    assert not torch.equal(first[0], draw_view(recipe, cases, transform, 8)[0])
    seeds = [draw_view(replace(recipe, seed=seed), cases, transform, 7)[0] for seed in (0, 1)]
    assert not torch.equal(*seeds)


def test_views_hold_the_active_classes_alone(recipe):
    cases, transform = load_cases(recipe, recipe.training), augmentation(recipe)
    counts = set()
    for step in range(40):
        image, label, active, _ = draw_view(recipe, cases, transform, step)
        assert image.shape == (1, 1, *recipe.crop) and label.shape == (1, *recipe.crop)
        assert int(label.max()) <= len(active)
        counts.add(len(active))
    assert counts == {1, 2}


def test_the_loss_does_not_average_over_absent_classes():
    label = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    label[:, :2] = 1
    logits = torch.zeros(1, 4, 4, 4, 4)
    logits[:, 1, :2] = 20
    logits[:, 0, 2:] = 20
    assert float(segmentation_loss(logits, label)) < 1e-2
    assert torch.isfinite(segmentation_loss(logits, torch.zeros_like(label)))


def test_publishing_gives_a_backbone_with_shipped_prompts(recipe, tmp_path):
    trained(recipe, tmp_path / "run")
    entry = publish(recipe, tmp_path / "run" / "checkpoint.safetensors", tmp_path, "cpu", quiet)
    backbone = load_model(str(tmp_path / "tiny.safetensors"), "cpu")
    assert backbone.sha256 == entry["sha256"] and backbone.shipped.names == list(CLASSES)
    assert set(entry["card"]["validation_dice"]) == set(CLASSES)
    assert backbone.config == NetworkConfig(channels=(16, 16, 32), head_channels=8, tokens=4)
    assert all(size % step == 0 for size, step in zip(backbone.tile, backbone.config.stride))


def test_bundled_recipes_load():
    for path in RECIPES.glob("*.json"):
        recipe = Recipe.load(path)
        assert not set(recipe.training) & set(recipe.validation)
        assert not {f"case{number}" for number in range(16, 20)} & {*recipe.training, *recipe.validation}


@pytest.mark.parametrize(
    "change",
    [
        {"network": {"widths": 3}},
        {"preprocessing": {"spacing": [1, 1, 1]}},
        {"network": 5},
        {"stepz": 3},
        {"steps": 0},
        {"minutes": 3},
        {"classes": None, "training": None, "name": None},
    ],
)
def test_a_recipe_that_is_wrong_gets_a_sentence(tmp_path, change):
    values = json.loads((RECIPES / "ct-abdomen.json").read_text())
    values.pop("minutes")
    values["steps"] = 5
    values.update(change)
    values = {key: value for key, value in values.items() if value is not None}
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(values))
    with pytest.raises(PromptSegError, match=r"\.$"):
        Recipe.load(path)


def test_a_missing_data_folder_gets_a_sentence(recipe):
    with pytest.raises(PromptSegError, match="no data folder"):
        load_cases(replace(recipe, data="/nowhere"), recipe.training)
