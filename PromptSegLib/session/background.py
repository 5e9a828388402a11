"""What a thread finishes and the main thread takes up."""

from __future__ import annotations

from typing import Any, Callable, Optional

from .actions import Notice
from .job import Future

Then = Callable[[Any], Optional[Notice]]


class Background:
    """One piece of work at a time: ``work`` in a thread, then what it gives to ``then``, on the main thread."""

    def __init__(self) -> None:
        self._running: Optional[tuple[Future, Then]] = None

    @property
    def working(self) -> bool:
        """Whether there is something that :meth:`poll` will take up."""
        return self._running is not None

    def start(self, work: Callable[[], Any], then: Then) -> None:
        """Begin; waits for what is still going on."""
        self.finish()
        self._running = (Future(work), then)

    def poll(self) -> Optional[Notice]:
        """Take up what is finished; gives a notice when there is something to say."""
        return self.finish() if self._running is not None and self._running[0].done else None

    def finish(self) -> Optional[Notice]:
        """Wait for what is going on, which is never long, and take it up."""
        if self._running is None:
            return None
        future, then = self._running
        self._running = None
        return then(future.result())

    def drop(self) -> None:
        """Forget what is going on."""
        self._running = None
