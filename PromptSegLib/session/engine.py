"""The session's worker: started when it is needed, started anew when it is gone, and ended when it does not obey;
and what it says, as objects."""

from __future__ import annotations

import time
from typing import Any, Callable, Iterator, Optional

import SimpleITK as sitk

from ..models import catalogue
from ..prompts.store import Prompts
from ..worker import packing
from ..worker.carrier import Carrier
from ..worker.client import GONE, Event, Worker
from ..worker.contract import Prepare, Reply
from ..worker.launch import environment, local_command, ssh_command
from ..worker.packing import grid_of
from .inputs import Parameters
from .job import ActiveJob, JobKind

PATIENCE = 0.8  # seconds that a cancelled worker gets before it is ended
KEEPING = 20.0  # the same, where it has to keep what was trained so far


class Engine:
    """One worker at a time, where the parameters want it.

    :param make_worker: starts a worker from parameters.
    :ivar device: what it computes on, as it said itself; "" before that.
    """

    def __init__(self, make_worker: Callable[[Any], Carrier]):
        self._make = make_worker
        self._worker: Optional[Carrier] = None
        self._key: tuple = ()
        self._prepared: tuple = ()
        self._preparing = 0
        self._dying: Optional[tuple[Carrier, int, float]] = None
        self.device = ""

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
        key = worker_key(parameters)
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

    def cancel(self, active: ActiveJob) -> None:
        """Ask the worker to stop a job, and see to it that it does."""
        if active.worker is not None and active.number and not active.worker.gone:
            active.worker.cancel(active.number)
            patience = KEEPING if active.job.kind is JobKind.SPECIALIZE else PATIENCE
            self._dying = (active.worker, active.number, time.monotonic() + patience)

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


def worker_key(parameters: Parameters) -> tuple:
    """What makes another worker necessary when it changes."""
    if parameters.device == "ssh":
        return ("ssh", parameters.host)
    return ("local", parameters.threads)


def start_worker(parameters: Parameters) -> Worker:
    """A worker where the user wants it; raises :class:`PromptSegError` for a host that cannot be one."""
    if parameters.device == "ssh":
        command = ssh_command(parameters.host)
        return Worker(lambda _: command, files=False, place=parameters.host)
    return Worker(local_command, environment(parameters.threads))


def model_and_device(parameters: Parameters) -> dict[str, Any]:
    """What all jobs but growing name: the model, and the device as the worker knows it."""
    device = "auto" if parameters.device == "ssh" else parameters.device
    return {"model": parameters.model or catalogue.entries()[0].name, "device": device}


def reply_of(event: Event) -> Reply:
    """A ``preview`` or ``done`` but its prompts: labels, their classes, where to look, and what there is to say."""
    without = {name: array for name, array in event.arrays.items() if name != "prompts"}
    return Reply.unpack(event.values, without)


def prompts_of(event: Event) -> Prompts:
    """The prompts that come with a ``preview`` or ``done`` of a tuning."""
    return packing.prompts_of(event.arrays["prompts"])


def map_of(event: Event) -> sitk.Image:
    """The uncertainty of a ``done``: uint8, 0..255, on the model's grid."""
    return grid_of(event.values["map_grid"]).image(event.arrays["map"])
