"""One job on its way: what it is for, how far it is, and work in threads that the main thread asks about."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Generic, Mapping, Optional, TypeVar

from ..errors import Sentence
from .pace import Pace
from .view import Notice

Result = TypeVar("Result")


class Task(Generic[Result]):
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


@dataclass
class Run:
    """A job from the click to its result.

    :param kind: ``tune``, ``segment`` or ``grow``.
    :param segment_ids: class name -> ID of the segment that gets it.
    :param numbers: class name -> the number of the class in the segmentation (see :mod:`.codes`).
    :param direct: apply without a preview: for volumes that are not looked at.
    """

    kind: str
    volume: Any
    segmentation: Any
    segment_ids: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    direct: bool = False
    prompts: Any = None  # that it segments with
    prompts_key: str = ""  # of their row in the list
    job: int = 0
    key: str = ""  # of the volume's voxels as they were sent
    known: Any = None  # what the user had said, see codes; None where nothing was painted
    painting: Any = None  # the segments as they were at the click
    tag: str = ""  # of the segmentation's last result at that time
    made: Any = None  # a segmentation node made for this job; goes when nothing comes of it
    worker: Any = None
    note: str = ""  # what the user should know of how it was computed
    stage: str = "preparing"
    share: float = 0.0
    curve: list[tuple[float, float, float]] = field(default_factory=list)
    means: dict[str, float] = field(default_factory=dict)  # of the curve
    began: float = field(default_factory=time.monotonic)
    pace: Pace = field(default_factory=Pace)
    notes: tuple[str, ...] = ()  # sentences for the user: what of that does not count
    task: Optional[Task] = None  # the thread that puts the job together
    again: bool = False  # whether it goes on from prompts
    missed: bool = False  # whether something was painted since the click

    def ask(self, request: Any, worker: Any) -> None:
        """Hand the job to a worker."""
        self.worker, self.known = worker, request.known
        self.notes = request.notes
        self.classes, self.segment_ids, self.numbers = request.classes, dict(request.segment_ids), dict(request.numbers)
        values, arrays = request.asked.pack()
        self.job = worker.submit(request.asked.name, values, arrays, request.images)

    def report(self, values: Mapping[str, Any]) -> None:
        """Take a report's stage, share and figures."""
        self.stage, self.share = str(values.get("stage", "")), float(values.get("share", 0.0))
        figures = values.get("figures") or {}
        self.pace.note(self.share, figures.get("left"))
        if "loss" in figures:
            agreement = float(figures.get("agreement", math.nan))
            self.curve.append(
                (self.share, self._smooth("loss", float(figures["loss"])), self._smooth("agree", agreement))
            )

    def told(self, text: str) -> Notice:
        """What to say at its end."""
        more = [*self.notes, self.note] if self.note else self.notes
        return Notice(" ".join([text, *more]), "warning") if more else Notice(text)

    def _smooth(self, name: str, value: float) -> float:
        """A running mean: a step looks at one crop, and crops differ more than steps do."""
        before = self.means.get(name, math.nan)
        self.means[name] = value if math.isnan(before) else before if math.isnan(value) else 0.8 * before + 0.2 * value
        return self.means[name]

    @property
    def doing(self) -> str:
        """What it does, a few words."""
        if self.kind == "tune":
            return "Retuning" if self.again else "Tuning prompts"
        return Sentence("Segmenting {volume}", volume=self.volume.GetName() or "the volume")

    @property
    def seconds_left(self) -> Optional[float]:
        """As the worker says, or at the pace so far; None while that says little."""
        return self.pace.left()
