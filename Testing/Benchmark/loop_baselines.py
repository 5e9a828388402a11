"""Full fine-tuning from strokes, in the time that a tuning has: what prompts are compared with in ``loop.py``."""

from __future__ import annotations

import time

import numpy as np
import SimpleITK as sitk
import torch
from protocol import segment

import PromptSegLib as ps
from PromptSegLib.annotation.example import Example
from PromptSegLib.annotation.labels import UNKNOWN, labels_on_grid
from PromptSegLib.imaging.volume import Volume
from PromptSegLib.network.precision import autocast
from PromptSegLib.specializing.adaptations import adaptation
from PromptSegLib.specializing.training import rate_at
from PromptSegLib.tuning.crops import cover
from PromptSegLib.tuning.objective import annotated_loss, class_weights, known_counts

CROPS = 24  # as a tuning has them


def fine_tuned(
    image: sitk.Image,
    strokes: sitk.Image,
    classes: dict[str, int],
    background: int,
    seconds: float,
    model: str = "",
    seed: int = 0,
) -> tuple[sitk.Image, int]:
    """Labels of the image after all weights were trained on its strokes for so many seconds; and how many steps.

    The same crops, the same loss on annotated voxels, and the rates of the protocol's full fine-tuning.
    """
    began, rng, generator = time.monotonic(), np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    backbone = ps.load_model(model or None, "cpu")
    volume = Volume.of(image, backbone.preprocessing)
    labels = labels_on_grid(Example(image, strokes, background), classes, volume.grid)
    crops = cover(volume.array, labels, backbone.tile, max(CROPS, len(classes) + 1), rng)
    spacing = backbone.preprocessing.spacing
    made = adaptation("full fine-tuning", backbone, len(classes), generator, backbone.crop, spacing, "all")
    made.tile = backbone.tile
    groups = [{"params": parameters, "lr": rate, "base": rate} for parameters, rate in made.trained]
    optimizer = torch.optim.AdamW(groups, weight_decay=made.decay)
    weights = [parameter for parameters, _ in made.trained for parameter in parameters]
    balance = class_weights(known_counts(torch.from_numpy(labels.astype(np.int64)).flatten(), len(classes)))
    steps = 0
    while (share := (time.monotonic() - began) / seconds) < 1.0 or not steps:
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * rate_at(min(share, 1.0))
        crop = crops[int(rng.integers(len(crops)))]
        known = crop.labels.flatten() != UNKNOWN
        optimizer.zero_grad(set_to_none=True)
        with autocast(torch.device("cpu")):
            logits = made(crop.image)
        found = logits[0].flatten(1)[:, known].t().float()
        annotated_loss(found, crop.labels.flatten()[known], balance).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        steps += 1
    return segment(made.eval(), backbone.preprocessing, image, classes), steps
