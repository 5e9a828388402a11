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


class Submitting:
    """What carriers have in common that write messages: jobs are numbered, and an image goes out once."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._last = 0

    def submit(
        self,
        name: str,
        values: Mapping[str, Any],
        arrays: Optional[Mapping[str, np.ndarray]] = None,
        images: Iterable[Sent] = (),
    ) -> int:
        """As :meth:`Carrier.submit`."""
        images = list(images)
        for image in images:
            if image.key not in self._known:
                self._write("image", {"key": image.key, **image.values}, {"voxels": image.voxels})
        self._known = {image.key for image in images}
        self._last += 1
        keep = sorted(self._known)
        self._write("job", {**values, "job": self._last, "name": name, "keep": keep}, dict(arrays or {}))
        return self._last

    def _write(self, kind: str, values: dict, arrays: Mapping[str, np.ndarray]) -> None:
        """Hand a message over; does not wait."""
        raise NotImplementedError
