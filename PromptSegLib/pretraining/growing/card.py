"""The model card of a growing network, in plain words."""

from __future__ import annotations

from typing import Any

_TEXT = """# {name}: {title}

{card}

It is asked for one class at a time and knows no class by name. It sees the image relative to its own range, distances
relative to the voxels it works on, what was painted, the region that plain growing gives, and, if there is some, what a
backbone says of the class. It knows nothing of units, of modalities or of anatomy beyond the shapes that it learned
from.

| learned from | cases | license |
|---|---|---|
{rows}

Besides tubes, sheets, blobs and layered bodies made by code. {steps} steps of {views} views of about {voxels:,} voxels
in {minutes:g} minutes on a CPU, by `promptseg train-growing`. {synthesized:.0%} of the views of images had every tissue
drawn anew, {redrawn:.0%} of the others another contrast; label maps have no image, theirs were synthesized. Strokes
were simulated, in {corrections:.0%} of the views as corrections of the network's own last answer too.

It is no medical device and not for diagnosis. Where painted slices do not predict each other with it, PromptSeg grows
plainly instead and says so; look at every result.
"""


def card_text(name: str, card: dict[str, Any]) -> str:
    """Markdown: what it is for, what it learned from, how, and what to keep in mind."""
    rows = "\n".join(f"| {each['name']} | {each['cases']} | {each['license']} |" for each in card["sources"])
    return _TEXT.format(**{**card["recipe"], **card, "name": name, "rows": rows})
