"""How long a job will still take: as the worker says, or by its pace where that is even."""

from __future__ import annotations

import time
from collections import deque
from typing import Optional

_BEGINS = 0.02  # share up to which a job gets ready: loading a model says nothing of the rest
_SURE = 0.1  # share before which the pace says little
_RECENT = 0.3  # of the time so far that counts as recent
_EVEN = 1.4  # times by which the pace may have changed lately
_LEAST = 2.0  # seconds that have to be known of


class Pace:
    """Of one job. All times are those of ``time.monotonic``, or of whoever gives them."""

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
