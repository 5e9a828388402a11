"""How long a job with a budget will still take: the worker knows, and says it with every report."""

from __future__ import annotations

import time
from typing import Callable, Optional

from ..progress import ProgressHandle, Report

_TOLD = 0.2  # share of the last stage from which its own pace counts


class Remaining:
    """Seconds until a job's result, as ``left`` in the figures of its reports; nothing before :meth:`expect`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._end: Optional[float] = None

    def expect(self, seconds: Optional[float]) -> None:
        """The result will be there in so many seconds; None where nobody knows."""
        self._end = None if seconds is None else self._clock() + seconds

    def told(self, job: ProgressHandle) -> ProgressHandle:
        """The same job, whose reports say how long it will take."""
        return ProgressHandle(lambda report: self._send(job, report, self._left()), job.is_cancelled)

    def at_last(self, job: ProgressHandle) -> ProgressHandle:
        """The same for the last stage, shares 0 to 1, whose pace soon says more than what was expected of it."""
        began = self._clock()

        def send(report: Report) -> None:
            left = self._left()
            if left is not None and report.share > _TOLD:
                left = (self._clock() - began) * (1 - report.share) / report.share
            self._send(job, report, left)

        return ProgressHandle(send, job.is_cancelled)

    def _left(self) -> Optional[float]:
        return None if self._end is None else max(0.0, self._end - self._clock())

    @staticmethod
    def _send(job: ProgressHandle, report: Report, left: Optional[float]) -> None:
        if job.on_report:
            figures = report.figures if left is None else {**report.figures, "left": round(left, 1)}
            job.on_report(Report(report.stage, report.share, figures))
