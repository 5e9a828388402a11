"""A model of its own, of what was applied to several volumes: asking for it, and what comes of it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Mapping

from ..errors import PromptSegError, Sentence
from ..models import catalogue, own
from ..worker import contract
from ..worker.client import Event
from .job_inputs import LEARNING_TAKES, Plan
from .job_requests import Request, learning_of

TAKES = 8.0  # times the seconds of a tuning on strokes
STOPPED = "Stopped; nothing was changed. With the same name, it goes on from there."


def check_name(called: str) -> str:
    """The name as it is used; raises :class:`PromptSegError` for one that is none or taken, or a folder that cannot
    be written."""
    called = called.strip()
    if not called:
        raise PromptSegError("Type a name for the new model first.")
    own.place_for(called)
    return called


def model_of(plan: Plan, called: str, common: Mapping[str, Any]) -> Request:
    """What to ask of the worker so that it makes a model; for any thread.

    Raises :class:`PromptSegError` where all segments are empty.

    :param plan: of a learning.
    :param common: the model and the device.
    """
    learning = learning_of(plan, common)
    asked = learning.asked
    assert isinstance(asked, contract.Learn)
    given = {each.name: getattr(asked, each.name) for each in fields(contract.Learn)}
    given["settings"] = {"seconds": plan.settings["seconds"] / LEARNING_TAKES * TAKES}
    return replace(learning, asked=contract.Specialize(**given, called=called, title=called))


def taken(event: Event) -> list[str]:
    """What to say of the model that a worker made, with its notes; made on another machine, it is put into the folder
    of models. Raises :class:`PromptSegError` where that fails."""
    made = contract.Specialized.unpack(event.values, event.arrays)
    entry = catalogue.find_sha256(made.sha256) or own.take(made.called, made.files)
    text = Sentence("The model '{title}' is in the list of models; choose it to segment with it.", title=entry.title)
    return [text, *made.notes]
