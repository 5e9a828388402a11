"""A tiny backbone with random weights and a phantom, for tests of behavior rather than of quality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from PromptSegLib.annotation.classes import describe
from PromptSegLib.annotation.example import Example
from PromptSegLib.imaging.preprocessing import Preprocessing
from PromptSegLib.models.backbone import Backbone, load_model, save_backbone
from PromptSegLib.network.config import NetworkConfig
from PromptSegLib.network.punet import PUNet
from PromptSegLib.network.tokens import new_prompts, unstack
from PromptSegLib.prompts.store import ClassPrompts, Prompts

CONFIG = NetworkConfig(channels=(16, 16, 32), head_channels=8, tokens=4, dynamic_rank=4)
PREPROCESSING = Preprocessing((3.0, 2.0, 2.0), (-100.0, 200.0))
CLASSES = {"ball": 5, "rod": 9}
BACKGROUND = 7
TILE = (16, 32, 32)  # of the bodies: eight tiles of a phantom
LARGE_TILE = (16, 40, 48)  # two, for what has nothing to do with tiles
LITTLE = (14, 32, 40)  # (z, y, x) of a phantom with both structures and most of the strokes: a quarter of the tiles


def tiny_backbone(
    folder: Path,
    seed: int = 0,
    shipped: bool = False,
    config: NetworkConfig = CONFIG,
    tile: tuple[int, int, int] = TILE,
) -> Backbone:
    torch.manual_seed(seed)
    path = folder / f"tiny{seed}.safetensors"
    sha256 = save_backbone(path, PUNet(config), f"tiny{seed}", PREPROCESSING, tile, {"classes": []})
    if shipped:
        names = ("liver", "spleen", "aorta")
        tensors = unstack(new_prompts(config, 3, generator=torch.Generator().manual_seed(seed)))
        classes = tuple(
            ClassPrompts(describe(name, value), {key: tensor.numpy() for key, tensor in each.items()})
            for value, (name, each) in enumerate(zip(names, tensors), start=1)
        )
        prompts = Prompts(classes, f"tiny{seed}", sha256, config, PREPROCESSING, "full")
        prompts.save(path.with_suffix(".prompts.safetensors"))
    return load_model(str(path), "cpu")


def phantom(shape=(20, 40, 48), spacing=(2.0, 2.0, 3.0), direction=None, seed=0) -> tuple[sitk.Image, sitk.Image]:
    """An image with a bright ball and a dark rod, and the reference labels (``CLASSES``)."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    ball = ((z - 10) * 1.5) ** 2 + (y - 14.0) ** 2 + (x - 14.0) ** 2 < 81
    rod = ((y - 28) ** 2 + (x - 34) ** 2 < 30) & (z > -1)
    array = rng.normal(0, 8, shape) + 120 * ball - 80 * rod
    labels = np.zeros(shape, np.uint8)
    labels[ball] = CLASSES["ball"]
    labels[rod] = CLASSES["rod"]
    images = []
    for each in (array.astype(np.float32), labels):
        image = sitk.GetImageFromArray(each)
        image.SetSpacing(spacing)
        image.SetOrigin((-30.0, 12.0, 100.0))
        if direction is not None:
            image.SetDirection(direction)
        images.append(image)
    return images[0], images[1]


def painted(reference: sitk.Image) -> sitk.Image:
    """Three slices with a line through each structure and one through the background."""
    labels = sitk.GetArrayFromImage(reference)
    strokes = np.zeros_like(labels)
    for z in (6, 10, 13):
        strokes[z, 12:17, 14] = labels[z, 12:17, 14]
        strokes[z, 26:31, 34] = labels[z, 26:31, 34]
        strokes[z, 36:38, 5:25] = BACKGROUND
        strokes[z, 4:6, 30:44] = BACKGROUND
    image = sitk.GetImageFromArray(strokes)
    image.CopyInformation(reference)
    return image


def example(**keywords) -> Example:
    image, reference = phantom(**keywords)
    return Example(image, painted(reference), BACKGROUND)


def recipe_values(folder: Path | str) -> dict:
    """What a pretraining recipe says of itself and of its one source, phantoms in ``folder``."""
    source = {
        "name": "phantoms",
        "folder": str(folder),
        "image": "{case}_ct.nii.gz",
        "label": "{case}_label.nii.gz",
        "modality": "CT",
        "licence": "none",
        "classes": dict(CLASSES),
        "validation": ["case2"],
    }
    return {"name": "tiny", "title": "Tiny", "card": "A phantom.", "sources": [source]}
