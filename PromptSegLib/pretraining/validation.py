"""The Dice of a learner's prompts on the validation cases of a recipe, on their own grids."""

from __future__ import annotations

from typing import Optional, Sequence

import numpy as np
import SimpleITK as sitk
import torch
from monai.metrics import compute_dice
from scipy import ndimage

from ..annotation.classes import ClassInfo, describe
from ..errors import PromptSegError
from ..imaging.geometry import Grid, resample
from ..imaging.reading import read_annotation, read_image
from ..inference.options import SegmentationOptions
from ..inference.segmenting import segment
from ..models.backbone import Backbone
from ..network.tokens import unstack
from ..prompts.store import ClassPrompts, Prompts
from .finding import CaseFile, case_key
from .learner import Learner
from .recipe import Recipe

# Tiles this much larger than the training crops are better and cheaper (docs/methods.md#measured-with-a-prototype).
TILE_FACTOR = 1.5


def tile(recipe: Recipe) -> tuple[int, int, int]:
    """Extents (z, y, x) of the tiles that the network is applied to."""
    stride = recipe.network.stride
    z, y, x = (int(-(-(size * TILE_FACTOR) // step) * step) for size, step in zip(recipe.crop, stride))
    return z, y, x


def prompts_of(learner: Learner, sha256: str = "", card: Optional[dict] = None, dtype: type = np.float32) -> Prompts:
    """The learner's prompts as a prompts file holds them; class k writes the label value k."""
    recipe = learner.recipe
    infos: list[ClassInfo] = []
    for value, name in enumerate(recipe.class_names, start=1):
        infos.append(describe(name, value, infos))
    classes = tuple(
        ClassPrompts(info, {key: tensor.cpu().numpy().astype(dtype) for key, tensor in tensors.items()})
        for info, tensors in zip(infos, unstack(learner.stacked()))
    )
    preprocessing, network = recipe.preprocessing, recipe.network
    return Prompts(classes, recipe.name, sha256, network, preprocessing, "full", "punet", {"0": card or {}})


def as_backbone(learner: Learner) -> Backbone:
    """The learner's body as :func:`validate` takes it, without a copy."""
    recipe, device = learner.recipe, next(learner.parameters()).device
    return Backbone(recipe.name, "", learner.net, recipe.preprocessing, tile(recipe), device, {})


def validate(
    recipe: Recipe,
    backbone: Backbone,
    prompts: Prompts,
    files: Sequence[CaseFile],
    skipped: Optional[dict[str, str]] = None,
) -> dict[str, list[float]]:
    """Dice per class, one number per case in which the class is labeled and there; of a class that is labeled in
    part, within the box around its labels.

    The label value of a class is looked up by its name.

    :param skipped: notes each case that cannot be read or segmented, "source/case" -> why; without it, such a case
        raises :class:`PromptSegError`.
    """
    found: dict[str, list[float]] = {name: [] for name in recipe.class_names}
    for file in files:
        if file.label is None or file.image is None:
            continue
        try:
            image, reference = read_image(file.image), read_annotation(file.label)
            labels = sitk.GetArrayFromImage(
                segment(prompts, image, backbone, options=SegmentationOptions(name=file.image.name)).labels
            )
        except (PromptSegError, OSError) as error:
            if skipped is None:
                raise
            skipped[case_key(recipe, file)] = str(error)
            continue
        grid = Grid.of(image)
        if not Grid.of(reference).same_as(grid):
            reference = resample(reference, grid, sitk.sitkNearestNeighbor, 0)
        truth = sitk.GetArrayFromImage(reference)
        source = recipe.sources[file.source]
        for name in source.classes:
            own, guess = np.isin(truth, source.values_of(name)), labels == prompts.values[name]
            if name in source.partial:  # what lies beyond the labels says nothing
                box = tuple(ndimage.find_objects(own.astype(np.uint8)) or [...])[0]
                own, guess = own[box], guess[box]
            if own.any():
                one, two = (torch.from_numpy(np.ascontiguousarray(each))[None, None] for each in (guess, own))
                found[name].append(float(compute_dice(one, two)))
    return found


def means(found: dict[str, list[float]]) -> dict[str, Optional[float]]:
    """Mean Dice per class; None where no case says anything."""
    return {name: round(float(np.mean(values)), 4) if values else None for name, values in found.items()}


def overall(scores: dict[str, Optional[float]]) -> Optional[float]:
    """Mean over the classes that have a Dice."""
    known = [value for value in scores.values() if value is not None]
    return float(np.mean(known)) if known else None


def line(scores: dict[str, Optional[float]]) -> str:
    said = "  ".join(f"{name} {value:.3f}" for name, value in scores.items() if value is not None)
    mean = overall(scores)
    return f"mean Dice {mean:.3f}  ({said})" if mean is not None else "no validation case has a labeled class"
