"""The session's worker: started when it is needed, started anew when it is gone, and ended when it does not obey."""

from __future__ import annotations

import time
from typing import Any, Callable, Iterator, Optional

from ..worker.carrier import Carrier
from ..worker.client import GONE, Event
from ..worker.contract import Prepare
from . import requests
from .running import Run

PATIENCE = 0.8  # seconds that a cancelled worker gets before it is ended


class Engine:
    """One worker at a time, where the parameters want it.

    :param make_worker: starts a worker from parameters.
    """

    def __init__(self, make_worker: Callable[[Any], Carrier] = requests.start_worker):
        self._make = make_worker
        self._worker: Optional[Carrier] = None
        self._key: tuple = ()
        self._prepared: tuple = ()
        self._preparing = 0
        self._dying: Optional[tuple[Carrier, int, float]] = None

    @property
    def worker(self) -> Optional[Carrier]:
        """The worker that is there, if any."""
        return self._worker

    @property
    def stopping(self) -> bool:
        """Whether a cancelled job may still be running."""
        return self._dying is not None

    def get(self, parameters: Any) -> Carrier:
        """The worker, a fresh one if it is gone or wanted elsewhere; raises :class:`PromptSegError` for a bad host."""
        key = requests.worker_key(parameters)
        if self._worker is not None and (self._worker.gone or key != self._key):
            self.end()
        if self._worker is None:
            self._worker, self._key, self._prepared, self._preparing = self._make(parameters), key, (), 0
        return self._worker

    def prepare(self, parameters: Any, image, common: dict[str, Any]) -> None:
        """Let it load the model and encode an image, once for each of both."""
        worker, wanted = self.get(parameters), (image.key, *common.values())
        if wanted != self._prepared:
            self._prepared = wanted
            self._preparing = worker.submit(Prepare.name, *Prepare(**common, image=image.key).pack(), [image])

    def hurry(self) -> None:
        """Stop getting ready: a job is coming, and goes on with what was encoded so far."""
        if self._worker is not None and self._preparing:
            self._worker.cancel(self._preparing)
        self._preparing = 0

    def interrupt(self) -> bool:
        """As :meth:`hurry`, for something brief, to be prepared for again afterwards; whether there was anything."""
        interrupted = bool(self._worker is not None and self._preparing)
        self.hurry()
        if interrupted:
            self._prepared = ()
        return interrupted

    def cancel(self, run: Run) -> None:
        """Ask the worker to stop a run's job, and see to it that it does."""
        if run.worker is not None and run.job and not run.worker.gone:
            run.worker.cancel(run.job)
            self._dying = (run.worker, run.job, time.monotonic() + max(PATIENCE, run.patience))

    def poll(self) -> Iterator[tuple[Carrier, Event]]:
        """What the worker said; ends it when it has not stopped a cancelled job in time."""
        worker = self._worker
        if worker is not None:
            for event in worker.poll():
                stopped = self._dying is not None and self._dying[:2] == (worker, event.job)
                if (stopped and event.kind in ("cancelled", "done", "refused", "failed")) or event.kind == GONE:
                    self._dying = None
                if event.job == self._preparing and event.kind in ("cancelled", "done", "refused", "failed"):
                    self._preparing = 0
                if event.kind == GONE:
                    self._worker = None
                yield worker, event
        if self._dying is not None and time.monotonic() > self._dying[2]:
            self.end()

    def end(self) -> None:
        """End the worker now."""
        if self._worker is not None:
            self._worker.kill()
        self._worker = self._dying = None
