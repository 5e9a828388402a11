"""A tiny recipe, and runs of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import load_file

from harness.tiny_model import phantom, recipe_values
from PromptSegLib.pretraining.recipe import Recipe
from PromptSegLib.pretraining.run import Pretraining


@pytest.fixture
def values(tmp_path) -> dict:
    """A tiny recipe: two labeled cases, one to validate on, and one without labels."""
    for index in range(4):
        image, reference = phantom(seed=index)
        sitk.WriteImage(image, str(tmp_path / f"case{index}_ct.nii.gz"))
        if index < 3:
            sitk.WriteImage(reference, str(tmp_path / f"case{index}_label.nii.gz"))
    return {
        **recipe_values(tmp_path),
        "network": {"channels": [16, 16, 32], "head_channels": 8, "tokens": 4},
        "preprocessing": {"spacing": [3, 2, 2], "intensity": [-100, 200]},
        "assignment": {"fwhm": 16, "max_distance": 6.5},
        "crop": [8, 16, 16],
        "small_crop": [4, 16, 16],
        "batch": 2,
        "steps": 6,
        "validations": 1,
    }


def loaded(values: dict, folder: Path, **changes) -> Recipe:
    path = folder / "tiny.json"
    path.write_text(json.dumps({**values, **changes}))
    return Recipe.load(path)


@pytest.fixture
def recipe(values, tmp_path) -> Recipe:
    return loaded(values, tmp_path)


def quiet(_: str) -> None:
    pass


def never(*_, **__) -> None:
    raise AssertionError("this must not be reached")


def trained(recipe: Recipe, folder: Path, stops: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    """The checkpoint of a run that was stopped at each of ``stops`` and resumed."""
    for stop in (*stops, None):
        run = Pretraining(recipe, folder, log=quiet)
        run.run(stop=(lambda run=run, stop=stop: run.step >= stop - 1) if stop else None)
    return load_file(str(folder / "checkpoint.safetensors"))
