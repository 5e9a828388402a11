"""A program that runs beside the application, with its output as it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Optional, Sequence

_NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows opens a console otherwise
_ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", "PYTHONNOUSERSITE": "1"}


class ChildProcess:
    """A program, polled.

    :param command: program and arguments. Raises ``OSError`` where it cannot be started.
    :param folder: for its output and its temporary files; for whoever began it to delete.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._log, self._read = folder / "output.txt", 0
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_ENVIRONMENT, "TMPDIR": str(folder)},
                creationflags=_NO_WINDOW,
                start_new_session=True,
            )

    @property
    def returncode(self) -> Optional[int]:
        """None while it runs, 0 when it went well."""
        return self._process.poll()

    def lines(self) -> list[str]:
        """What was printed since the last call; a line that is not complete waits for its end."""
        ended = self._process.poll() is not None
        new = self._log.read_bytes()[self._read :]
        new = new if ended else new[: new.rfind(b"\n") + 1]
        self._read += len(new)
        return [line.rstrip() for line in new.decode("utf-8", "replace").splitlines()]

    def kill(self) -> None:
        """End it now, and all that it started: Slicer's Python is a launcher, whose child does the work."""
        # It may have ended meanwhile; and one that waits for a network drive ends later.
        with suppress(ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
            if sys.platform == "win32":
                subprocess.run(["taskkill", "/T", "/F", "/PID", str(self._process.pid)], creationflags=_NO_WINDOW)
            else:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(1)
