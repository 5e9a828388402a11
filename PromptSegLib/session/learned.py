"""What prompts for other volumes say of themselves in the scene, and whether a model of its own is worth its time."""

from __future__ import annotations

from typing import Any, Optional

from ..errors import Sentence
from ..prompts.store import Prompts
from ..prompts.teachers import agreement_elsewhere, examples_of, taught_by
from ..scene import prompt_nodes
from ..worker.client import Event
from ..worker.contract import Taught
from ..worker.packing import notes_of
from .applied import current_tag

ROLE = "PromptSegLearned"  # of the reference from a segmentation
FEWEST = 3  # annotated volumes of which a model of its own is made, as specializing.specialize has it
ENOUGH = 0.85  # agreement with what was held out, from which prompts are enough
TAG = "PromptSeg.LearnedTag"
AGREED = "PromptSeg.HeldOut"  # agreement with what was held out of the examples, 0..1; "" where nothing was
COUNT = "PromptSeg.Examples"  # how many volumes they learned from


def node_of(segmentation: Any) -> Any:
    """The node of prompts for other volumes; None without one."""
    return segmentation.GetNodeReference(ROLE)


def is_learned(segmentation: Any) -> bool:
    """Whether there are prompts for other volumes that were tuned on what is applied now."""
    node = node_of(segmentation)
    return node is not None and node.GetAttribute(TAG) == current_tag(segmentation)


def taken(scene: Any, segmentation: Any, tag: str, event: Event) -> list[str]:
    """Put prompts for other volumes that came into the scene, in place of those tuned on an earlier result; gives what
    to say of them, with their notes.

    :param tag: of the result that they were tuned on.
    """
    prompts, node = Taught.unpack(event.values, event.arrays).prompts, node_of(segmentation)
    if node is None:
        node = prompt_nodes.add_prompts(scene, prompts, f"{segmentation.GetName()} for other volumes")
        segmentation.SetNodeReferenceID(ROLE, node.GetID())
    else:
        prompt_nodes.update_prompts(node, prompts)
    note(node, prompts, tag)
    text = Sentence(
        "'{node}' have learned from {examples}; segment other volumes with them.",
        node=node.GetName(),
        examples=taught_by(prompts),
    )
    return [text, *notes_of(event.values.get("notes", []))]


def note(node: Any, prompts: Prompts, tag: str) -> None:
    """Remember of which result prompts for other volumes are, and how well they carry."""
    agreed = agreement_elsewhere(prompts)
    node.SetAttribute(TAG, tag)
    node.SetAttribute(AGREED, "" if agreed is None else f"{agreed:.3f}")
    node.SetAttribute(COUNT, str(len(examples_of(prompts))))


def enough(segmentation: Any) -> str:
    """Why no model of its own is offered that is made of what was applied; "" where one is."""
    node = node_of(segmentation)
    if node is None or not is_learned(segmentation):
        return "Let prompts learn from what was applied first; opening Other volumes does that."
    count, agreed = _number(node.GetAttribute(COUNT)), _number(node.GetAttribute(AGREED))
    if count is None or count < FEWEST:
        return Sentence(
            "A model of its own needs {fewest} volumes to which a result was applied, and here are {count}; add "
            "further examples.",
            fewest=FEWEST,
            count=int(count or 0),
        )
    if agreed is None or agreed >= ENOUGH:
        return "Prompts agree well with what was held out of the examples; no model of its own is needed."
    return ""


def offer(segmentation: Any) -> str:
    """Why a model of its own is worth its time, one sentence."""
    node = node_of(segmentation)
    agreed = _number(node.GetAttribute(AGREED)) if node is not None else None
    if agreed is None:
        return ""
    return Sentence(
        "Prompts agree to {agreed:.0%} with what was held out of the examples; a model of its own, trained further on "
        "them, may do better.",
        agreed=agreed,
    )


def _number(text: Optional[str]) -> Optional[float]:
    try:
        return float(text) if text else None
    except ValueError:
        return None
