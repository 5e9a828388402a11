"""A program that runs beside the application, with its output as it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Optional, Sequence

_GRACE_SECONDS = 2.0
_NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows opens a console otherwise
_ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", "PYTHONNOUSERSITE": "1"}


class ChildProcess:
    """A program, polled; nothing here waits.

    Cancelling interrupts it and all that it started (as Ctrl+C does, so that pip can tidy up), and kills them two
    seconds later: Slicer's Python is a launcher, whose child does the work.

    :param command: program and arguments. Raises ``OSError`` where it cannot be started.
    :param log: the file that its output goes to.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log, self._read, self._kill_at = log, 0, 0.0
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_ENVIRONMENT},
                creationflags=_NO_WINDOW,
                start_new_session=sys.platform != "win32",
            )

    @property
    def returncode(self) -> Optional[int]:
        """None while it runs, or while what it started does after a :meth:`cancel`; 0 when it went well."""
        code = self._process.poll()
        if not self._kill_at or sys.platform == "win32":
            return code
        if time.monotonic() < self._kill_at:
            return None if self._signal(0) else code
        self._signal(signal.SIGKILL)
        return code

    def lines(self) -> list[str]:
        """What was printed since the last call; a line that is not complete waits for its end."""
        ended = self._process.poll() is not None
        new = self._log.read_bytes()[self._read :]
        new = new if ended else new[: new.rfind(b"\n") + 1]
        self._read += len(new)
        return [line.rstrip() for line in new.decode("utf-8", "replace").splitlines()]

    def cancel(self) -> None:
        """Ask it to end soon; it may still end well."""
        if self._kill_at or self._process.poll() is not None:
            return
        self._kill_at = time.monotonic() + _GRACE_SECONDS
        if sys.platform == "win32":
            subprocess.Popen(["taskkill", "/T", "/F", "/PID", str(self._process.pid)], creationflags=_NO_WINDOW)
        else:
            self._signal(signal.SIGINT)

    def _signal(self, number: int) -> bool:
        """Whether there was anybody to signal."""
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True
