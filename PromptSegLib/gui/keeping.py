"""Strokes are kept for the case that the application is killed, also those before the user rests."""

from __future__ import annotations

import math
from typing import Any, Callable


class Keeping:
    """A timer for what :class:`~..session.recovery.Rescue` has to do later; no event comes while nobody paints.

    :param make_timer: milliseconds and what is called then -> a single-shot timer of Qt.
    """

    def __init__(self, rescue: Any, make_timer: Callable[[int, Callable[[], None]], Any]):
        self._rescue, self.timer = rescue, make_timer(0, self.keep)

    def keep(self) -> None:
        """Keep what is due, now or when it is time."""
        self._rescue.step()
        if math.isfinite(self._rescue.wait):
            self.timer.interval = int(1000 * self._rescue.wait) + 1
            self.timer.start()
