"""A worker in this very process, in a thread of its own: for scripts and notebooks, where torch is at work anyway."""

from __future__ import annotations

import atexit
import os
import queue
import threading
from typing import Any, Mapping, Optional

import numpy as np

from .carrier import Submitting
from .client import Event
from .jobs import JobHandlers
from .messages import Message
from .serving import do

_PATIENCE = 60.0  # seconds that Python's end waits for a job to come to its next step


class InProcess(Submitting):
    """A :class:`~.carrier.Carrier` without a process. Arrays are handed over as they are, not copied.

    A job that uses up the memory ends with an error as any other; one that crashes takes this process with it.

    Example::

        session = Session(scene, Parameters(device="cpu"), make_worker=lambda parameters: InProcess())
    """

    def __init__(self) -> None:
        super().__init__()
        self.gone = False
        self._events: queue.Queue[Event] = queue.Queue()
        self._inbox: queue.Queue[Optional[Message]] = queue.Queue()
        self._cancelled: set[int] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        atexit.register(self._end)

    @property
    def pid(self) -> Optional[int]:
        return os.getpid()

    def _write(self, kind: str, values: dict, arrays: Mapping[str, np.ndarray]) -> None:
        self._inbox.put(Message(kind, values, arrays))

    def cancel(self, job: int) -> None:
        self._cancelled.add(job)

    def poll(self) -> list[Event]:
        events: list[Event] = []
        while not self.gone and not self._events.empty():
            events.append(self._events.get_nowait())
        return events

    def kill(self) -> None:
        """Nothing more is said; a thread cannot be ended, so a running job stops at its next step."""
        self.gone = True
        self._cancelled.update(range(self._last + 1))
        self._inbox.put(None)

    def _end(self) -> None:
        """Python that ends while a thread computes aborts."""
        self.kill()
        self._thread.join(_PATIENCE)

    def send(self, kind: str, arrays: Optional[Mapping[str, np.ndarray]] = None, **values: Any) -> None:
        """What a job says, as ``messages.Channel.send``."""
        message = Message(kind, values, dict(arrays or {}))
        self._events.put(Event(kind, message.job, message.values, message.arrays))

    def _run(self) -> None:
        jobs = JobHandlers()
        while True:
            message = self._inbox.get()
            if message is None:
                atexit.unregister(self._end)
                return
            if message.kind == "image":
                jobs.add_image(message)
            else:
                do(jobs, message, self, self._cancelled)
