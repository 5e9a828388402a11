"""What carries jobs to a worker and brings back what it says: a process, another machine over ssh, or a thread here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterable, Mapping, Optional, Protocol

import numpy as np

if TYPE_CHECKING:
    from .client import Event, Sent


class Carrier(Protocol):
    """:class:`~.client.Worker` is one, for a child process and for ssh; :class:`~.in_process.InProcess` another.

    None of this waits.
    """

    gone: bool

    @property
    def pid(self) -> Optional[int]: ...

    def submit(
        self,
        name: str,
        values: Mapping[str, Any],
        arrays: Optional[Mapping[str, np.ndarray]] = None,
        images: Iterable[Sent] = (),
    ) -> int:
        """Hand over a job, as ``contract.Request.pack`` gives it, with the images that it names; gives its number."""

    def cancel(self, job: int) -> None:
        """Ask to stop a job, which answers ``cancelled``."""

    def poll(self) -> list[Event]:
        """What was said since the last call."""

    def kill(self) -> None:
        """End it now, without a word."""
