"""What is said of a model of its own: where it comes from, what it has learned from, and how it was trained."""

from __future__ import annotations

from typing import Any, Optional, Sequence

from ..models.backbone import Backbone
from ..models.own import MARK


def card(
    *,
    title: str,
    parent: Backbone,
    classes: Sequence[str],
    data: Sequence[dict[str, Any]],
    training: dict[str, Any],
    held_out: Optional[float],
) -> dict[str, Any]:
    """The card in the header of the weights; ``held_out``: mean Dice over boxes of the examples that were held out."""
    parents = [{"name": parent.name, "sha256": parent.sha256, "licence": str(parent.card.get("licence", ""))}]
    parents += [each for each in parent.card.get("parents", []) if isinstance(each, dict)]
    licence = str(parent.card.get("licence", "")) or "unknown"
    return {
        MARK: True,
        "title": title,
        "text": f"{', '.join(classes)}: trained further from the model {parent.name}. For research; it was looked at "
        "on parts of the volumes that it learned from, and on no others. It is not for diagnosis or treatment.",
        "modality": str(parent.card.get("modality", "other")),
        "licence": f"of the model it comes from: {licence}; of the data it learned from: say so here before sharing it",
        "classes": list(classes),
        "parents": parents,
        "data": list(data),
        "training": training,
        "held_out": held_out,
    }


def as_text(name: str, card: dict[str, Any]) -> str:
    """The card in plain words, Markdown."""
    how, agreed = card["training"], card["held_out"]
    lines = [f"# {card['title']}", "", card["text"], "", "## Comes from", ""]
    lines += [f"- {each['name']} (SHA-256 {each['sha256']}). {each['licence']}" for each in card["parents"]]
    lines += ["", "## Trained on", ""]
    for each in card["data"]:
        size, step = (" x ".join(f"{n:g}" for n in each[key]) for key in ("shape", "spacing"))
        lines.append(f"- {each['name']}: {size} voxels of {step} mm (z, y, x), completely annotated")
    measured = (
        "nothing was held out" if agreed is None else f"mean Dice {agreed:.3f} on boxes of these that were held out"
    )
    lines += ["", "## How", "", f"- {how['what']}: {how['steps']} steps, {how['seconds']:g} s on {how['device']}"]
    lines += [f"- {measured}", f"- model {name}, licence {card['licence']}"]
    return "\n".join(lines) + "\n"
