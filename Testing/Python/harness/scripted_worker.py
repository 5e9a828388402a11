"""A worker that computes nothing: it says what a test wrote down for each job, one thing a poll."""

from __future__ import annotations

from collections import deque
from typing import Any, Callable, Iterable, Mapping, Optional

import numpy as np

from harness.prompts_fixtures import some_prompts
from PromptSegLib.annotation.classes import describe
from PromptSegLib.inference.result import Segmentation
from PromptSegLib.worker import contract
from PromptSegLib.worker.client import GONE, Event, Sent
from PromptSegLib.worker.contract import Reply, Request, request_of

Line = tuple[str, Any]  # of a script: report, preview, done, refused, failed, cancelled or gone, and what belongs to it


class ScriptedWorker:
    """A :class:`~PromptSegLib.worker.carrier.Carrier`.

    :param script: gives the lines for a request. To ``report`` belongs its share, to ``preview`` and ``done`` a
        :class:`Reply` (or None: nothing but that it is done), to the others a sentence.

    :ivar asked: all requests, as the worker gets them.
    """

    pid: Optional[int] = None

    def __init__(self, script: Callable[[Request], Iterable[Line]]) -> None:
        self.asked: list[Request] = []
        self.images: list[Sent] = []
        self.gone = False
        self._script = script
        self._lines: deque[Event] = deque()

    def submit(
        self,
        name: str,
        values: Mapping[str, Any],
        arrays: Optional[Mapping[str, np.ndarray]] = None,
        images: Iterable[Sent] = (),
    ) -> int:
        request = request_of(name, values, arrays or {})
        self.asked.append(request)
        self.images += images
        self._lines += [_event(line, len(self.asked)) for line in self._script(request)]
        return len(self.asked)

    def cancel(self, job: int) -> None:
        self._lines = deque(event for event in self._lines if event.job != job)
        self._lines.append(Event("cancelled", job))

    def poll(self) -> list[Event]:
        if not self._lines or self.gone:
            return []
        event = self._lines.popleft()
        self.gone = event.kind == GONE
        return [event]

    def kill(self) -> None:
        self.gone = True


def _event(line: Line, job: int) -> Event:
    kind, said = line
    if isinstance(said, Reply):
        values, arrays = said.pack()
        return Event(kind, job, {"device": "CPU", **values}, arrays)
    if kind == "report":
        return Event(kind, job, {"stage": "tuning", "share": said, "figures": {}})
    return Event(kind, job, {} if said is None else {"message": said, "details": said})


def replies(request: Request) -> list[Line]:
    """A preview and a result: the first class where the image has anything of it painted."""
    example = request.example if isinstance(request, contract.Grow) else request.examples[0]
    name, value = next(iter(request.classes.items()))
    labels = example.grid.image((example.voxels == value).astype(np.uint8) * value)
    result = Segmentation(labels, (describe(name, value),), uncertainty=example.grid.image(example.voxels * 0.0))
    prompts = None if isinstance(request, contract.Grow) else some_prompts(name)
    return [("report", 0.5), ("preview", Reply(result)), ("done", Reply(result, prompts))]
