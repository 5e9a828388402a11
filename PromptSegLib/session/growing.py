"""What happens by itself while the user paints: strokes are grown a moment after each, and the worker gets ready."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import replace
from functools import partial
from typing import Any, Optional

from ..errors import PromptSegError
from ..worker.carrier import Carrier
from ..worker.client import GONE, Event
from .actions import Actions, Level, Notice
from .engine import Engine, model_and_device, reply_of
from .inputs import Inputs, Plan, image_of, plan_tuning
from .job import ActiveJob, Future, Job, JobKind, State, StateMachine
from .job_requests import Request, growing_of
from .results import Results

_ENDS = ("done", "cancelled", "refused", "failed")


class Growing:
    """At most one job in the worker, and at most one that is being put together; neither is ever waited for.

    The session's state is ``GROWING`` as long as there is one.

    :ivar active: the job in the worker.
    """

    def __init__(
        self,
        parameters: Any,
        actions: Actions,
        inputs: Inputs,
        machine: StateMachine,
        engine: Engine,
        results: Results,
    ):
        self._parameters, self._actions, self._inputs = parameters, actions, inputs
        self._machine, self._engine, self._results = machine, engine, results
        self._next: Optional[ActiveJob] = None  # being put together in a thread
        self._grown = ""  # of what was asked for last; the same is not grown again
        self._prepares = False  # whether the worker was to get ready for tuning, and had to wait for this
        self.active: Optional[ActiveJob] = None

    @property
    def busy(self) -> bool:
        return self.active is not None or self._next is not None

    def prepare(self) -> None:
        """Let the worker load the model and encode the volume while the user paints, once for each volume."""
        volume = self._inputs.volume
        if volume is None or self._actions.reason("segment"):
            return
        if self.busy:
            self._prepares = True
            return
        with contextlib.suppress(PromptSegError):
            self._engine.prepare(self._parameters, image_of(volume), model_and_device(self._parameters))

    def begin(self) -> None:
        """Begin to grow what is painted; prompts and further examples have nothing to do with it."""
        volume, segmentation = self._inputs.volume, self._inputs.segmentation
        self._results.background.finish()
        result = self._results.applied.of(segmentation)
        result = replace(result, prompts=None) if result is not None else None
        try:
            plan = plan_tuning(self._parameters, volume, segmentation, result, ())
        except PromptSegError as error:
            self._actions.notice = Notice(str(error), Level.WARNING)
            return
        job = Job.of(JobKind.GROW, volume, segmentation, plan.parts[0])
        self._machine.to(State.GROWING)
        self._next = ActiveJob(job, Future(partial(_asked, plan)))

    def step(self) -> None:
        """Send what is ready; what goes wrong with it is one quiet sentence, as it is tried again and again."""
        try:
            self._send()
        except PromptSegError as error:
            self._actions.notice = Notice(str(error), Level.WARNING)
        self._prepare_at_last()

    def take(self, worker: Carrier, event: Event) -> None:
        """What the worker said, where it is of what it grows."""
        active = self.active
        mine = (0,) if event.kind == GONE else (active.number,) if active is not None else ()
        if active is None or active.worker is not worker or event.job not in mine:
            return
        if event.kind in (GONE, *_ENDS):
            self.active = None
            self._settle()
        if event.kind in (GONE, "failed"):
            self._grown = ""  # the same may be asked for again
        if event.kind in ("preview", "done"):
            self._show(active, event)
        elif event.kind in ("refused", "failed", GONE) and event.message:
            self._actions.notice = Notice(event.message, Level.WARNING)
        self._prepare_at_last()

    def stop(self) -> None:
        """Stop at once; what was shown stays. The worker is not ended: its next job begins a moment later."""
        if self.active is not None and self.active.worker is not None and not self.active.worker.gone:
            self.active.worker.cancel(self.active.number)
        self.active = self._next = None
        self._grown = ""
        self._settle()

    def discard(self) -> None:
        """As :meth:`stop`; what was grown last is not grown again before there is another stroke."""
        grown = self._grown
        self.stop()
        self._grown = grown

    def drop(self) -> None:
        """Forget what was grown, and what is growing."""
        self.stop()
        waiting = self._results.waiting
        if waiting is not None and waiting.job.kind is JobKind.GROW:
            self._results.drop()
            self._actions.changed()

    def removed(self, node: Any) -> None:
        """Stop where a node that it is about is no longer in the scene."""
        if any(each is not None and each.job.is_about(node) for each in (self.active, self._next)):
            self.stop()

    def closing(self) -> None:
        self.stop()

    def _send(self) -> None:
        ready = self._next
        if ready is None or not ready.assembly.done or self._engine.stopping:
            return
        self._next = None
        self._settle()
        request, digest = ready.assembly.result()
        if request is None:  # what is painted says nothing against the result that was applied
            self.drop()
        elif digest != self._grown:
            self.stop()
            self._prepares = self._engine.interrupt() or self._prepares
            ready.send(request, self._engine.get(self._parameters))
            self._machine.to(State.GROWING)
            self.active, self._grown = ready, digest

    def _show(self, active: ActiveJob, event: Event) -> None:
        if image_of(active.job.volume).key != active.job.image_key:
            self.stop()
            return
        arrived = self._results.arrive(active, reply_of(event), None, event.kind == "done")
        before = self._actions.notice
        self._actions.notice = arrived or (before if before.level == Level.ERROR else Notice())  # what it told is past
        self._actions.changed()

    def _prepare_at_last(self) -> None:
        if self._prepares and not self.busy:
            self._prepares = False
            self.prepare()

    def _settle(self) -> None:
        if not self.busy and self._machine.state is State.GROWING:
            self._machine.to(State.IDLE)


def _asked(plan: Plan) -> tuple[Optional[Request], str]:
    """The request, and what tells it from others."""
    request = growing_of(plan)
    if request is None:
        return None, ""
    values, arrays = request.asked.pack()
    digest = hashlib.sha256(repr((plan.parts[0].image.key, values, request.segment_ids)).encode())
    for name in sorted(arrays):
        digest.update(arrays[name].tobytes())
    return request, digest.hexdigest()
