"""Live preview: what is painted is grown by itself, a moment after each stroke, and the next stroke replaces it."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any, Optional

from ..worker.carrier import Carrier
from ..worker.client import GONE, Event
from .asking import Request, growing_of
from .engine import Engine
from .planning import Plan
from .running import Run, Task

KIND = "grow"  # of its runs
WORDS = "Grown from strokes; Tune prompts refines it"  # of its preview
_ENDS = ("done", "cancelled", "refused", "failed")


class Live:
    """At most one job in the worker, and at most one that is being put together; neither is ever waited for.

    :ivar prepares: whether the worker was to get ready for tuning, and had to wait for this.
    """

    def __init__(self, engine: Engine):
        self._engine = engine
        self._next: Optional[Run] = None  # being put together in a thread
        self._grown = ""  # of what was asked for last; the same is not grown again
        self.run: Optional[Run] = None  # in the worker
        self.prepares = False

    @property
    def busy(self) -> bool:
        return self.run is not None or self._next is not None

    def begin(self, run: Run, plan: Plan) -> None:
        """Put a job together, of what is painted now."""
        run.task = Task(partial(_asked, plan))
        self._next = run

    def step(self, parameters: Any) -> bool:
        """Send what is ready; whether it has turned out that there is nothing to grow.

        Raises :class:`PromptSegError` for what cannot be grown.
        """
        run = self._next
        if run is None or run.task is None or not run.task.done or self._engine.stopping:
            return False
        self._next = None
        asked, run.task = run.task, None
        request, digest = asked.result()
        if request is None:
            self.stop()
            return True
        if digest != self._grown:
            self.stop()
            self.prepares = self._engine.interrupt() or self.prepares
            run.ask(request, self._engine.get(parameters))
            self.run, self._grown = run, digest
        return False

    def takes(self, worker: Carrier, event: Event) -> bool:
        """Whether an event is of the job in the worker; at its end, that is no more."""
        run = self.run
        if run is None or run.worker is not worker or event.job not in ((0,) if event.kind == GONE else (run.job,)):
            return False
        if event.kind in (GONE, *_ENDS):
            self.run = None
        if event.kind in (GONE, "failed"):
            self._grown = ""  # the same may be asked for again
        return True

    def stop(self) -> None:
        """Stop at once; what was shown stays. The worker is not ended: its next job begins a moment later."""
        if self.run is not None and not self.run.worker.gone:
            self.run.worker.cancel(self.run.job)
        self.run = self._next = None
        self._grown = ""

    def removed(self, node: Any) -> None:
        """Stop where a node that it is about is no longer in the scene."""
        if any(run is not None and node in (run.volume, run.segmentation) for run in (self.run, self._next)):
            self.stop()

    def discard(self) -> None:
        """As :meth:`stop`; what was grown last is not grown again before there is another stroke."""
        grown = self._grown
        self.stop()
        self._grown = grown


def shown_by(result: Any) -> dict[str, str]:
    """What a view says of a result that is shown as a preview, or of none."""
    if result is None:
        return {}
    if result.run.kind == KIND:
        return {"shows": "grown", "preview": WORDS, "remarks": " ".join(result.raw.notes)}
    if result.final:  # its notes were said when it came
        return {"shows": "final", "preview": "Result"}
    return {"shows": "early", "preview": "Preview", "remarks": " ".join(result.raw.notes)}


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
