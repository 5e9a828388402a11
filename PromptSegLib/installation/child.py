"""Programs that run beside the application, with their output as it comes."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from typing import Mapping, Optional, Protocol, Sequence

_NOT_STARTED = 127
_GRACE_SECONDS = 2.0
_NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows opens a console otherwise


class CommandRun(Protocol):
    """A job that somebody else does. None of this waits."""

    @property
    def returncode(self) -> Optional[int]:
        """None while it runs; 0 when it went well. All lines are there once this is not None."""

    def lines(self) -> list[str]:
        """What was printed since the last call."""

    def cancel(self) -> None:
        """Ask it to end soon; it may still end well."""


class ChildProcess:
    """Commands run one after the other in child processes, until one fails; a :class:`CommandRun`.

    A daemon thread reads what they print. Cancelling interrupts the command and all that it started
    (as Ctrl+C does, so that pip can tidy up), and kills them two seconds later.

    :param commands: program and arguments each.
    :param environment: variables to set besides those of this process.

    Example::

        run = ChildProcess([sys.executable, "-m", "pip", "--version"])
        while run.returncode is None:
            print(*run.lines(), sep="\\n")
    """

    def __init__(self, *commands: Sequence[str], environment: Optional[Mapping[str, str]] = None) -> None:
        self._environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "PYTHONIOENCODING": "utf-8",
            "PYTHONNOUSERSITE": "1",
            **(environment or {}),
        }
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._process: Optional[subprocess.Popen] = None
        self._cancelled = False
        self._returncode: Optional[int] = None
        self._thread = threading.Thread(target=self._run, args=(commands,), daemon=True)
        self._thread.start()

    @property
    def returncode(self) -> Optional[int]:
        return self._returncode

    def lines(self) -> list[str]:
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._lines.get_nowait())
        return found

    def cancel(self) -> None:
        with self._lock:
            if self._cancelled or self._returncode is not None:
                return
            self._cancelled = True
            process = self._process
        if process is not None:
            threading.Thread(target=_stop, args=(process,), daemon=True).start()

    def _run(self, commands: Sequence[Sequence[str]]) -> None:
        code = 0
        for command in commands:
            code = self._run_one([str(word) for word in command])
            if code:
                break
        with self._lock:
            self._returncode = code

    def _run_one(self, command: Sequence[str]) -> int:
        try:
            with self._lock:
                if self._cancelled:
                    return -signal.SIGINT
                self._process = process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    text=True,
                    encoding="utf-8",
                    errors="replace",
                    creationflags=_NO_WINDOW,
                    start_new_session=sys.platform != "win32",
                )
        except OSError as error:
            self._lines.put(f"ERROR: Cannot start {command[0]}: {error.strerror or error}")
            return _NOT_STARTED
        if process.stdout is not None:
            with process.stdout as output:
                for line in output:
                    self._lines.put(line.rstrip())
        return process.wait()


def _stop(process: subprocess.Popen) -> None:
    """End a process and its children: Slicer's Python is a launcher, whose child does the work."""
    if sys.platform == "win32":
        subprocess.run(
            ["taskkill", "/T", "/F", "/PID", str(process.pid)],
            capture_output=True,
            check=False,
            creationflags=_NO_WINDOW,
        )
        return
    _signal_group(process.pid, signal.SIGINT)
    end = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < end and _signal_group(process.pid, 0):
        time.sleep(0.05)
    _signal_group(process.pid, signal.SIGKILL)


def _signal_group(group: int, number: int) -> bool:
    """Whether there was anybody to signal."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
