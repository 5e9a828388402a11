"""Training views: which classes are asked for, where the crop lies, how it is augmented."""

from __future__ import annotations

import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
)

from .cases import Case
from .recipe import Recipe

MARGIN = 1.35  # the crop handed to the affine transform is this much larger, so that rotation brings in no border


def augmentation(recipe: Recipe) -> Compose:
    """Geometric and intensity augmentation of one crop (METHODS.md 1.8); never mirrored left to right."""
    return Compose(
        [
            # Some public releases store volumes mirrored front to back (BTCV as redistributed does):
            # the network must know organs in both, and left from right by the grid's x axis.
            RandFlipd(["image", "label"], prob=0.5, spatial_axis=1),
            RandAffined(
                ["image", "label"],
                prob=0.6,
                spatial_size=recipe.crop,
                rotate_range=(0.08, 0.08, 0.25)[::-1],
                shear_range=(0.03,) * 6,
                scale_range=(0.15, 0.15, 0.15),
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            RandScaleIntensityd("image", 0.15, prob=0.5),
            RandShiftIntensityd("image", 0.15, prob=0.5),
            RandAdjustContrastd("image", prob=0.2, gamma=(0.7, 1.5)),
            RandGaussianSmoothd("image", (0.25, 0.8), (0.25, 0.8), (0.25, 0.8), prob=0.1),
            RandGaussianNoised("image", prob=0.2, std=0.08),
        ]
    )


def draw_view(recipe: Recipe, cases: list[Case], transform: Compose, step: int):
    """One training view, a function of the seed and the step alone (so that a killed run resumes exactly).

    Returns image (1, 1, D, H, W), label (1, D, H, W) with 0 = background and k = the k-th
    active class, the indices (from 0) of the active classes, and whether the prompts enter the encoder.
    """
    draw = np.random.default_rng([recipe.seed, step])
    case = cases[draw.integers(len(cases))]
    count = len(recipe.classes)
    if draw.random() < recipe.all_classes:
        active = np.arange(count)
    else:
        active = np.sort(draw.permutation(count)[: draw.integers(1, count)])
    crop = np.asarray(recipe.crop)
    present = [index + 1 for index in active if index + 1 in case.members]
    if present and draw.random() < recipe.foreground:
        members = case.members[present[draw.integers(len(present))]]
        center = members[draw.integers(len(members))] + draw.integers(-crop // 4, crop // 4 + 1)
    else:
        center = draw.integers(0, np.asarray(case.image.shape))
    image, label = cut(case, center, np.ceil(crop * MARGIN).astype(int))
    transform.set_random_state(seed=int(draw.integers(2**31)))
    view = transform({"image": torch.from_numpy(image[None]), "label": torch.from_numpy(label[None])})
    lookup = torch.zeros(count + 1, dtype=torch.long)
    lookup[torch.from_numpy(active + 1)] = torch.arange(1, len(active) + 1)
    # MONAI leaves the crop alone where no affine is drawn: take the middle.
    pixels, classes = (center_crop(torch.as_tensor(view[key])[0].float(), recipe.crop) for key in ("image", "label"))
    return pixels[None, None].contiguous(), lookup[classes.long()][None], active, draw.random() < recipe.encoder_prompts


def cut(case: Case, center: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The crop of ``size`` around ``center``, moved inside the volume where it fits, padded with air where not."""
    shape = np.asarray(case.image.shape)
    start = np.clip(center - size // 2, 0, np.maximum(shape - size, 0))
    stop = np.minimum(start + size, shape)
    window = tuple(slice(a, b) for a, b in zip(start, stop))
    missing = size - (stop - start)
    pad = [(int(m // 2), int(m - m // 2)) for m in missing]
    image = np.pad(case.image[window], pad, constant_values=-1.0)
    return image, np.pad(case.label[window], pad).astype(np.float32)


def center_crop(x: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    starts = [(extent - want) // 2 for extent, want in zip(x.shape, size)]
    z, y, w = (slice(start, start + want) for start, want in zip(starts, size))
    return x[z, y, w]
