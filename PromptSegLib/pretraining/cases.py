"""Labelled volumes of a recipe, on the model's grid, in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import PromptSegError
from ..examples.geometry import Grid, resample, to_model_grid, upright_grid
from .recipe import Recipe


@dataclass
class Case:
    """One volume: normalised image (z, y, x) float32, class index 1..K or 0, and voxels per class."""

    name: str
    image: np.ndarray
    label: np.ndarray
    members: dict[int, np.ndarray]


def load_cases(recipe: Recipe, names: tuple[str, ...], keep_members: int = 20000) -> list[Case]:
    """Read and resample the named cases. Class index k is the k-th of ``recipe.classes``.

    ``members`` holds up to ``keep_members`` voxel positions (n, 3) of each present class,
    from which foreground-centred crops are drawn.
    """
    folder = Path(recipe.data)
    if not folder.is_dir():
        raise PromptSegError(f'There is no data folder {folder}; edit "data" in the recipe.')
    cases = []
    for name in names:
        image = sitk.ReadImage(str(folder / f"{name}{recipe.image_suffix}"))
        label = sitk.ReadImage(str(folder / f"{name}{recipe.label_suffix}"))
        grid = upright_grid(Grid.of(image), recipe.preprocessing.spacing)
        low = recipe.preprocessing.intensity[0]
        array = recipe.preprocessing.normalize(to_model_grid(image, grid, low))
        values = sitk.GetArrayFromImage(resample(label, grid, sitk.sitkNearestNeighbor, 0))
        classes = np.zeros(values.shape, np.uint8)
        members = {}
        chooser = np.random.default_rng(recipe.seed)
        for index, value in enumerate(recipe.classes.values(), start=1):
            inside = values == value
            classes[inside] = index
            positions = np.argwhere(inside)
            if len(positions):
                chosen = chooser.permutation(len(positions))[:keep_members]
                members[index] = positions[chosen].astype(np.int16)
        cases.append(Case(name, array, classes, members))
    return cases
