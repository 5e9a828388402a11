"""From a finished run to a backbone with its shipped prompts and its model card."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Callable

import numpy as np

from ..models.backbone import load_model, save_backbone
from ..models.catalogue import CATALOGUE, MODALITIES
from . import checkpoint
from .finding import CaseFile, case_key
from .learner import Learner
from .recipe import Recipe
from .validation import line, means, overall, prompts_of, tile, validate


def publish(
    recipe: Recipe,
    saved: Path,
    folder: Path,
    validation: list[CaseFile],
    device: str = "auto",
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Write ``NAME.safetensors`` (fp16 body, averaged weights), ``NAME.prompts.safetensors`` and ``NAME.md``.

    Validates what was written on the validation cases (never those of a test), without those that cannot be used, and
    returns the catalogue entry. A run without labels ships no prompts: its tokens stand for no structure.
    """
    weights = folder / f"{recipe.name}.safetensors"
    learner = Learner(recipe)
    tensors, state = checkpoint.averages(saved)
    learner.load_state_dict(tensors)
    card = describe_run(recipe, state)
    sha256 = save_backbone(weights, learner.net, recipe.name, recipe.preprocessing, tile(recipe), card)
    entry: dict[str, Any] = {
        "name": recipe.name,
        "title": recipe.title,
        "file": f"weights/{weights.name}",
        "modality": card["modality"],
        "spacing": list(recipe.preprocessing.spacing),
        "classes": list(recipe.class_names) if recipe.supervised else [],
        "licence": card["licence"],
        "sha256": sha256,
        "size": weights.stat().st_size,
    }
    if recipe.supervised:
        shipped = weights.with_suffix(".prompts.safetensors")
        prompts_of(learner, sha256, card, np.float16).save(shipped)
        entry["prompts"] = f"weights/{shipped.name}"
        # What users get is halved in precision: validate that, not the run's own numbers.
        written = load_model(str(weights), device)
        assert written.shipped is not None
        usable = [file for file in validation if case_key(recipe, file) not in card["skipped"]]
        skipped: dict[str, str] = {}
        scores = means(validate(recipe, written, written.shipped, usable, skipped))
        for key, why in skipped.items():
            log(f"{key} is skipped: {why}")
        card["skipped"] = {**card["skipped"], **skipped}
        log(f"validation of the published model: {line(scores)}")
        card["validation_dice"] = scores
    entry["card"] = card
    weights.with_suffix(".md").write_text(as_text(card, entry), encoding="utf-8")
    return entry


def describe_run(recipe: Recipe, state: dict[str, Any]) -> dict[str, Any]:
    """What a model card says of a run."""
    sources = [
        {
            "name": source.name,
            "modality": source.modality,
            "licence": source.licence,
            "classes": list(source.classes),
            "training": state.get("training", {}).get(source.name, list(source.training or ())),
            "validation": list(source.validation),
        }
        for source in recipe.sources
    ]
    return {
        "title": recipe.title,
        "text": recipe.card,
        "modality": _modality(recipe),
        "licence": "; ".join(dict.fromkeys(source.licence for source in recipe.sources)),
        "classes": list(recipe.class_names),
        "sources": sources,
        "skipped": state.get("skipped", {}),
        "variant": recipe.variant + ("" if recipe.instructed else ", without prompts in attention"),
        "steps": state["step"],
        "batch": recipe.batch,
        "hours": round(state["seconds"] / 3600, 2),
        "processes": state.get("ranks", 1),
        "device": state.get("device", ""),
        "earlier": state.get("earlier", []),
        "command": state.get("command", ""),
        "commit": state.get("commit", ""),
    }


def _modality(recipe: Recipe) -> str:
    """What the model is for, in the catalogue's words: the kind of the images whose labels it learned, if any."""
    labeled = {source.modality for source in recipe.sources if source.label}
    kinds = labeled or {source.modality for source in recipe.sources}
    said = " and ".join(sorted(kinds))
    return said if said in MODALITIES else "other"


def as_text(card: dict[str, Any], entry: dict[str, Any]) -> str:
    """The model card in plain words, Markdown."""
    lines = [f"# {card['title']}", "", card["text"], "", "## Trained on", ""]
    for source in card["sources"]:
        training, labeled = source["training"], ", ".join(source["classes"]) or "no labels"
        count = len(training) if isinstance(training, list) else training
        lines.append(f"- {source['name']}: {count} volumes ({source['modality']}; {labeled}). {source['licence']}.")
    if card["skipped"]:
        lines.append(f"- {len(card['skipped'])} files could not be used and were skipped.")
    spacing = " x ".join(f"{step:g}" for step in entry["spacing"])
    lines += ["", f"Images are seen at {spacing} mm (z, y, x).", "", "## Validation (Dice of the shipped prompts)", ""]
    scores = card.get("validation_dice", {})
    if scores:
        names = "; ".join(f"{s['name']}: {', '.join(s['validation'])}" for s in card["sources"] if s["validation"])
        mean = overall(scores)
        lines += [f"On {names or 'no case'}.", "", "| class | Dice |", "|---|---|"]
        lines += [f"| {name} | {value:.3f} |" for name, value in scores.items() if value is not None]
        lines += [f"| mean | {'-' if mean is None else f'{mean:.3f}'} |"]
        unseen = [name for name, value in scores.items() if value is None]
        if unseen:
            lines += ["", f"No validation case has labels of: {', '.join(unseen)}."]
    else:
        lines.append("It ships no prompts.")
    hours = f"{card['steps']} steps of batch {card['batch']}, {card['hours']:g} h, {card['processes']} process(es)"
    lines += ["", "## How", "", f"- {card['variant']}; {hours} on {card['device'] or 'an unnamed device'}"]
    lines += [f"- before: {each}" for each in card["earlier"]]
    command = f"`{card['command']}`" if card["command"] else "unknown command"
    lines += [f"- {command}, commit {card['commit'] or 'unknown'}", f"- SHA-256 {entry['sha256']}"]
    return "\n".join(lines) + "\n"


def register(entry: dict[str, Any]) -> None:
    """Put an entry into the bundled catalogue, in place of one of the same name."""
    content = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    content["models"] = [each for each in content["models"] if each["name"] != entry["name"]] + [entry]
    CATALOGUE.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def commit() -> str:
    """The commit of this code, with "-dirty" where files were changed since; empty where it is no checkout."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False).stdout.strip()

    try:
        top = git("rev-parse", "--show-toplevel")
        if not top or Path(top).resolve() != root:  # installed inside a checkout of something else
            return ""
        return git("--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except OSError:
        return ""
