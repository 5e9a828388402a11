"""A model of its own, of what was applied to several volumes: offered where prompts are not enough."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Mapping, Optional

from ..errors import PromptSegError, Sentence
from ..models import catalogue, own
from ..worker import contract
from . import learning
from .asking import Request
from .view import Notice

KIND = contract.Specialize.name
LONGER = 8.0  # than a tuning on strokes
FEWEST = 3  # annotated volumes, as specializing.specialize has it
ENOUGH = 0.85  # agreement with what was held out, from which prompts are enough
PATIENCE = 20.0  # seconds to keep what was trained so far when it is cancelled
STOPPED = "Stopped; nothing was changed. With the same name, it goes on from there."


def why_not(segmentation: Any) -> str:
    """Why no model is offered that is made of what was applied; "" where one is."""
    node = learning.node_of(segmentation)
    if node is None or not learning.is_learned(segmentation):
        return "Let prompts learn from what was applied first; opening Other volumes does that."
    count, agreed = _number(node.GetAttribute(learning.COUNT)), _number(node.GetAttribute(learning.AGREED))
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
    node = learning.node_of(segmentation)
    agreed = _number(node.GetAttribute(learning.AGREED)) if node is not None else None
    if agreed is None:
        return ""
    return Sentence(
        "Prompts agree to {agreed:.0%} with what was held out of the examples; a model of its own, trained further on "
        "them, may do better.",
        agreed=agreed,
    )


def check_name(called: str) -> str:
    """The name as it is used; raises :class:`PromptSegError` for one that is none or taken, or a folder that cannot
    be written."""
    called = called.strip()
    if not called:
        raise PromptSegError("Type a name for the new model first.")
    own.place_for(called)
    return called


def request_of(lessons: learning.Lessons, called: str, common: Mapping[str, Any]) -> Request:
    """What to ask of the worker; for any thread. Raises :class:`PromptSegError` where all segments are empty.

    :param common: the model and the device.
    """
    asked = learning.request_of(lessons, common)
    learn = asked.asked
    assert isinstance(learn, contract.Learn)
    given = {each.name: getattr(learn, each.name) for each in fields(contract.Learn)}
    seconds = lessons.settings["seconds"] / learning.LONGER * LONGER
    given["settings"] = {"seconds": seconds}
    request = contract.Specialize(**given, called=called, title=called)
    return Request(request, asked.images, asked.classes, asked.segment_ids, {}, asked.known, asked.notes)


def made_by(run: Any, event: Any) -> Notice:
    """What to say of the model that a worker made; made on another machine, it is put into the folder of models."""
    made = contract.Specialized.unpack(event.values, event.arrays)
    run.note = str(event.values.get("note", ""))
    try:
        entry = catalogue.find_sha256(made.sha256) or own.take(made.called, made.files)
    except PromptSegError as error:
        return Notice(str(error), "error")
    text = Sentence("The model '{title}' is in the list of models; choose it to segment with it.", title=entry.title)
    return run.told(" ".join([text, *made.notes]))


def _number(text: Optional[str]) -> Optional[float]:
    try:
        return float(text) if text else None
    except ValueError:
        return None
