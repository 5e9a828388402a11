"""From a finished run to a backbone with its shipped prompts and its model card."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
import torch
from safetensors import safe_open

from ..errors import PromptSegError
from ..examples.reading import read_annotation, read_image
from ..inference.segmenting import segment
from ..models.backbone import load_model, save_backbone
from ..models.catalogue import CATALOGUE
from ..network.punet import PUNet
from ..network.tokens import unstack
from ..prompts.classes import ClassInfo, describe
from ..prompts.store import ClassPrompts, Prompts
from .recipe import Recipe

TILE_FACTOR = 1.5  # tiles this much larger than the training crops are better and cheaper (FINDINGS.md)


def publish(
    recipe: Recipe, checkpoint: Path, folder: Path, device: str = "auto", log: Callable[[str], None] = print
) -> dict[str, Any]:
    """Write ``NAME.safetensors`` (fp16 body, averaged weights) and ``NAME.prompts.safetensors`` into ``folder``.

    Validates on the recipe's validation cases (never those of a test) and returns the catalogue entry.
    """
    body, prompts, state = _average(checkpoint)
    net = PUNet(recipe.network)
    net.load_state_dict(body)
    stride = recipe.network.stride
    z, y, x = (int(-(-(size * TILE_FACTOR) // step) * step) for size, step in zip(recipe.crop, stride))
    card: dict[str, Any] = {
        "title": recipe.title,
        "text": recipe.card,
        "modality": recipe.modality,
        "licence": recipe.licence,
        "classes": list(recipe.classes),
        "training": list(recipe.training),
        "validation": list(recipe.validation),
        "steps": state["step"],
        "batch": recipe.batch,
        "hours": round(state["seconds"] / 3600, 2),
        "commit": _commit(),
        "processes": state.get("ranks", 1),
        "command": f"python -m PromptSegLib pretrain {recipe.name} -o DIR",
    }
    weights = folder / f"{recipe.name}.safetensors"
    sha256 = save_backbone(weights, net, recipe.name, recipe.preprocessing, (z, y, x), card)
    infos: list[ClassInfo] = []
    for name, value in recipe.classes.items():
        infos.append(describe(name, value, infos))
    classes = tuple(
        ClassPrompts(info, {key: tensor.numpy().astype(np.float16) for key, tensor in tensors.items()})
        for info, tensors in zip(infos, unstack(prompts))
    )
    shipped = Prompts(classes, recipe.name, sha256, recipe.network, recipe.preprocessing, "full", "punet", {"0": card})
    shipped.save(weights.with_suffix(".prompts.safetensors"))
    scores = validate(recipe, weights, device, log)
    return {
        "name": recipe.name,
        "title": recipe.title,
        "file": f"weights/{weights.name}",
        "prompts": f"weights/{weights.with_suffix('.prompts.safetensors').name}",
        "modality": recipe.modality,
        "spacing": list(recipe.preprocessing.spacing),
        "classes": list(recipe.classes),
        "licence": recipe.licence,
        "sha256": sha256,
        "size": weights.stat().st_size,
        "card": {**card, "validation_dice": scores},
    }


def validate(recipe: Recipe, weights: Path, device: str, log: Callable[[str], None]) -> dict[str, Optional[float]]:
    """Mean Dice per class of the shipped prompts on the recipe's validation cases, on their own grids."""
    from ..evaluation.scores import score

    backbone = load_model(str(weights), device)
    assert backbone.shipped is not None
    found: dict[str, list[float]] = {name: [] for name in recipe.classes}
    for case in recipe.validation:
        image = read_image(Path(recipe.data) / f"{case}{recipe.image_suffix}")
        reference = read_annotation(Path(recipe.data) / f"{case}{recipe.label_suffix}")
        result = segment(backbone.shipped, image, backbone)
        for name, each in score(reference, result.labels, recipe.classes).items():
            if each.dice is not None:
                found[name].append(each.dice)
        log(f"{case}: " + "  ".join(f"{name} {values[-1]:.3f}" for name, values in found.items() if values))
    return {name: round(float(np.mean(values)), 3) if values else None for name, values in found.items()}


def register(entry: dict[str, Any]) -> None:
    """Put an entry into the bundled catalogue, in place of one of the same name."""
    content = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    content["models"] = [each for each in content["models"] if each["name"] != entry["name"]] + [entry]
    CATALOGUE.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _average(checkpoint: Path):
    """Averaged body, averaged prompts and the state of a checkpoint."""
    try:
        with safe_open(str(checkpoint), "pt") as file:
            state = json.loads(file.metadata()["state"])
            names = list(file.keys())
            body = {n[len("average.body.") :]: file.get_tensor(n) for n in names if n.startswith("average.body.")}
            prefix = "average.prompts."
            prompts = {n[len(prefix) :]: file.get_tensor(n) for n in names if n.startswith(prefix)}
    except (OSError, KeyError, ValueError) as error:
        raise PromptSegError(f"{checkpoint} is not a checkpoint of a pretraining run.") from error
    return body, {name: tensor.to(torch.float32) for name, tensor in prompts.items()}, state


def _commit() -> str:
    try:
        folder = Path(__file__).parent
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
        return done.stdout.strip()
    except OSError:
        return ""
