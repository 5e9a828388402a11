"""A job from the click to its result: the session's states, threads, how far the job is and how long it takes."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, Callable, Generic, Mapping, Optional, TypeVar

from ..errors import Sentence
from ..prompts.store import Prompts
from ..scene.segment_snapshot import SegmentSnapshot
from ..worker import contract
from ..worker.carrier import Carrier
from .actions import Level, Notice
from .applied import current_tag
from .inputs import Part
from .job_requests import Request

Result = TypeVar("Result")
Then = Callable[[Any], Optional[Notice]]

_BEGINS = 0.02  # share up to which a job gets ready: loading a model says nothing of the rest
_SURE = 0.1  # share before which the pace says little
_RECENT = 0.3  # of the time so far that counts as recent
_EVEN = 1.4  # times by which the pace may have changed lately
_LEAST = 2.0  # seconds that have to be known of


class State(Enum):
    """What a session is at. A preview may wait for Apply or Discard in any of them, see :class:`~.results.Results`."""

    IDLE = "idle"
    GROWING = "growing"  # by itself, after a stroke; whatever the user asks for ends it
    PREPARING = "preparing"  # a thread puts a job together, or the worker is not free yet
    TUNING = "tuning"
    LEARNING = "learning"  # prompts for other volumes
    SPECIALIZING = "specializing"  # a model of its own
    SEGMENTING = "segmenting"


_JOB_ENDS = frozenset({State.IDLE})
TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.IDLE: frozenset({State.GROWING, State.PREPARING}),
        State.GROWING: frozenset({State.IDLE}),
        State.PREPARING: frozenset({State.TUNING, State.LEARNING, State.SPECIALIZING, State.SEGMENTING, State.IDLE}),
        State.TUNING: _JOB_ENDS,
        State.LEARNING: _JOB_ENDS,
        State.SPECIALIZING: _JOB_ENDS,
        State.SEGMENTING: _JOB_ENDS,
    }
)


class StateMachine:
    """The one place where a session's state changes."""

    def __init__(self) -> None:
        self._state = State.IDLE

    @property
    def state(self) -> State:
        return self._state

    def to(self, state: State) -> None:
        """Change to another state; raises ``RuntimeError`` where :data:`TRANSITIONS` has no such change."""
        if state is self._state:
            return
        if state not in TRANSITIONS[self._state]:
            raise RuntimeError(f"a session that is {self._state.value} cannot be {state.value} next")
        self._state = state


class JobKind(Enum):
    """What the worker is asked for; the values are its names of the jobs."""

    TUNE = contract.Tune.name
    LEARN = contract.Learn.name
    SPECIALIZE = contract.Specialize.name
    SEGMENT = contract.Segment.name
    GROW = contract.Grow.name

    @property
    def state(self) -> State:
        """The session's while the worker is at it."""
        return _STATES[self]


_STATES = {
    JobKind.TUNE: State.TUNING,
    JobKind.LEARN: State.LEARNING,
    JobKind.SPECIALIZE: State.SPECIALIZING,
    JobKind.SEGMENT: State.SEGMENTING,
    JobKind.GROW: State.GROWING,
}


TRAINING = "Training a model of its own"
_DOING = {
    JobKind.TUNE: "Tuning prompts",
    JobKind.LEARN: "Learning for other volumes",
    JobKind.SPECIALIZE: TRAINING,
}
# What goes on while the user turns to other volumes.
FOR_OTHERS = (JobKind.LEARN, JobKind.SPECIALIZE)


class Future(Generic[Result]):
    """A function that runs in a thread. Ask :attr:`done`, then take :meth:`result`, which raises what it raised."""

    def __init__(self, function: Callable[[], Result]):
        self._function = function
        self._value: Optional[Result] = None
        self._error: Optional[BaseException] = None
        self._ended = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._value = self._function()
        except BaseException as error:  # handed to whoever asks for the result
            self._error = error
        finally:
            self._ended.set()

    @property
    def done(self) -> bool:
        return self._ended.is_set()

    def result(self) -> Result:
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]


class Background:
    """Pieces of work, one after the other: ``work`` in a thread, then what it gives to ``then``, on the main thread."""

    def __init__(self) -> None:
        self._running: Optional[tuple[Future, Then]] = None
        self._waiting: deque[tuple[Callable[[], Any], Then, Callable[[], bool]]] = deque()

    @property
    def working(self) -> bool:
        """Whether there is something that :meth:`poll` will take up."""
        return self._running is not None

    def start(self, work: Callable[[], Any], then: Then, wanted: Callable[[], bool] = lambda: True) -> None:
        """Begin as soon as what was started before is done; waits for nothing.

        :param wanted: whether it still is when its turn comes; else it is left out.
        """
        self._waiting.append((work, then, wanted))
        if self._running is None:
            self._next()

    def poll(self) -> Optional[Notice]:
        """Take up what is finished; gives a notice when there is something to say."""
        return self._take() if self._running is not None and self._running[0].done else None

    def finish(self) -> Optional[Notice]:
        """Wait for all of it, and take it up."""
        notice = None
        while self._running is not None:
            notice = self._take() or notice
        return notice

    def drop(self) -> None:
        """Forget what is going on, and what waits."""
        self._running = None
        self._waiting.clear()

    def _take(self) -> Optional[Notice]:
        assert self._running is not None
        future, then = self._running
        self._next()
        return then(future.result())

    def _next(self) -> None:
        self._running = None
        while self._waiting and self._running is None:
            work, then, wanted = self._waiting.popleft()
            if wanted():
                self._running = (Future(work), then)


@dataclass(frozen=True)
class Job:
    """What was asked for, as it was at the click.

    :param image_key: of the volume's voxels.
    :param painting: the segments.
    :param tag: of the segmentation's last result; "" without one.
    :param direct: apply the result without a preview: for volumes that are not looked at.
    :param prompts: that it segments with.
    :param prompts_key: of their row in the list.
    :param made: a segmentation node made for this job; goes when nothing comes of it.
    """

    kind: JobKind
    volume: Any
    segmentation: Any
    image_key: str
    painting: SegmentSnapshot
    tag: str
    direct: bool = False
    prompts: Optional[Prompts] = None
    prompts_key: str = ""
    made: Any = None

    @classmethod
    def of(cls, kind: JobKind, volume: Any, segmentation: Any, part: Part, **more: Any) -> Job:
        """:param part: the volume with what is painted on it, as it was taken off the nodes."""
        tag = current_tag(segmentation) if segmentation is not None else ""
        return cls(kind, volume, segmentation, part.image.key, part.painted, tag, **more)

    def is_about(self, node: Any) -> bool:
        """Whether it needs a node."""
        return node in (self.volume, self.segmentation)


class Pace:
    """How long a job will still take: as the worker says, or by its pace where that is even.

    All times are those of ``time.monotonic``, or of whoever gives them.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=2000)  # time and share
        self._told: Optional[tuple[float, float]] = None  # when the worker said it, and seconds

    def note(self, share: float, left: Optional[float] = None, now: Optional[float] = None) -> None:
        """A report came.

        :param share: of the job that is done, 0..1.
        :param left: seconds as the worker knows them, where its budget says so.
        """
        now = time.monotonic() if now is None else now
        self._told = (now, float(left)) if left is not None else None
        if share >= _BEGINS and (not self._seen or share > self._seen[-1][1]):
            self._seen.append((now, share))

    def left(self, now: Optional[float] = None) -> Optional[float]:
        """Seconds until the result; None while that cannot be told."""
        now = time.monotonic() if now is None else now
        if self._told is not None:
            when, seconds = self._told
            return max(0.0, seconds - (now - when))
        if len(self._seen) < 2 or self._seen[-1][1] < _SURE:
            return None
        began, first = self._seen[0]
        share = self._seen[-1][1]
        if now - began < _LEAST or share <= first:
            return None
        # A report that is overdue slows the pace down.
        overall = (share - first) / (now - began)
        passed = [entry for entry in self._seen if entry[0] <= now - _RECENT * (now - began)]
        when, done = passed[-1] if passed else (began, first)
        recent = (share - done) / (now - when)
        if not recent or not 1 / _EVEN < recent / overall < _EVEN:
            return None
        return float((1 - share) / recent)


class ActiveJob:
    """A job and how far it is.

    :ivar assembly: the thread that puts the request together.
    :ivar request: what the worker was asked.
    :ivar number: of the job there.
    :ivar note: what the user should know of how it was computed.
    :ivar missed: whether something was painted since the click.
    :ivar grown: what was shown at the click, grown from strokes.
    :ivar said: what was said of its result.
    :ivar regrows: whether segments went, or got other roles, since the click.
    :ivar written: whether its result was applied without a preview.
    """

    def __init__(self, job: Job, assembly: Future, grown: Any = None):
        self.job, self.assembly, self.grown = job, assembly, grown
        self.said, self.regrows, self.written = Notice(), False, False
        self.request: Optional[Request] = None
        self.worker: Optional[Carrier] = None
        self.number = 0
        self.stage, self.share, self.note, self.missed = "preparing", 0.0, "", False
        self.curve: list[tuple[float, float, float]] = []
        self._means: dict[str, float] = {}
        self.began = time.monotonic()
        self._pace = Pace()

    def send(self, request: Request, worker: Carrier) -> None:
        """Hand the job to a worker."""
        self.worker, self.request = worker, request
        values, arrays = request.asked.pack()
        self.number = worker.submit(request.asked.name, values, arrays, request.images)

    def report(self, values: Mapping[str, Any]) -> None:
        """Take a report's stage, share and figures."""
        self.stage, self.share = str(values.get("stage", "")), float(values.get("share", 0.0))
        figures = values.get("figures") or {}
        self._pace.note(self.share, figures.get("left"))
        if "loss" in figures:
            agreement = float(figures.get("agreement", math.nan))
            self.curve.append(
                (self.share, self._smooth("loss", float(figures["loss"])), self._smooth("agree", agreement))
            )

    def told(self, text: str) -> Notice:
        """What to say at its end."""
        more = [*(self.request.notes if self.request is not None else ()), *([self.note] if self.note else [])]
        return Notice(" ".join([text, *more]), Level.WARNING) if more else Notice(text)

    def _smooth(self, name: str, value: float) -> float:
        """A running mean: a step looks at one crop, and crops differ more than steps do."""
        before = self._means.get(name, math.nan)
        self._means[name] = value if math.isnan(before) else before if math.isnan(value) else 0.8 * before + 0.2 * value
        return self._means[name]

    @property
    def doing(self) -> str:
        """What it does, a few words."""
        if self.job.kind in _DOING:
            return _DOING[self.job.kind]
        return Sentence("Segmenting {volume}", volume=self.job.volume.GetName() or "the volume")

    @property
    def seconds_left(self) -> Optional[float]:
        """As the worker says, or at the pace so far; None while that says little."""
        return self._pace.left()
