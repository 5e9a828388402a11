"""The application's side: start a worker, hand it jobs, take what it says. Nothing here waits."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Optional

import numpy as np

from ..errors import PromptSegError, Sentence
from .carrier import Submitting
from .messages import VERSION, Channel, Message, ProtocolError, shared_folder

_LOG_LINES = 200
_ENDING = 1.0  # seconds for a process to end once its output broke off
GONE = "gone"


@dataclass(frozen=True)
class Event:
    """What a worker said (``report``, ``preview``, ``done``, ``cancelled``, ``refused``, ``failed``), or ``gone``."""

    kind: str
    job: int = 0
    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """The sentence for the user, of a refusal, a failure or an end."""
        return Sentence.from_dict(self.values)


@dataclass(frozen=True)
class Sent:
    """An image by its key; its voxels (z, y, x) are sent once to each worker, from another thread."""

    key: str
    values: Mapping[str, Any]
    voxels: np.ndarray


class Worker(Submitting):
    """One worker process, from its first job to its end. Make a new one when it is gone.

    Every method returns at once; starting, sending and receiving happen in threads, and :meth:`poll`
    hands over what came. Processes end with the application: their input ends.

    :param command: takes the folder that arrays go through (or None) and gives the command line.
    :param files: whether both sides see the same files.
    """

    def __init__(
        self,
        command: Callable[[Optional[Path]], list[str]],
        environment: Optional[Mapping[str, str]] = None,
        files: bool = True,
        place: str = "this machine",
    ):
        super().__init__()
        self._command, self._environment, self._files, self.place = command, environment, files, place
        self._events: queue.Queue[Event] = queue.Queue()
        self._outbox: queue.Queue[Optional[tuple[str, dict, Mapping[str, np.ndarray]]]] = queue.Queue()
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._process: Optional[subprocess.Popen] = None
        self._folder: Optional[Path] = None
        self._told_memory = self._greeted = self._other_version = self._unreadable = self._farewell = False
        self._own_pid: Optional[int] = None  # the worker's, where a launcher is what we started
        self._ending = threading.Event()
        self.gone = False
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def log(self) -> str:
        """The last lines that the worker printed."""
        return "\n".join(self._log)

    @property
    def pid(self) -> Optional[int]:
        """The worker's own process, once it has said which it is; until then, the one that was started."""
        return self._own_pid or (self._process.pid if self._process else None)

    def _write(self, kind: str, values: dict, arrays: Mapping[str, np.ndarray]) -> None:
        self._outbox.put((kind, values, arrays))

    def cancel(self, job: int) -> None:
        """Ask the worker to stop a job; it answers ``cancelled`` at its next step."""
        self._write("cancel", {"job": job}, {})

    def poll(self) -> list[Event]:
        """What the worker said since the last call."""
        events = []
        while True:
            try:
                events.append(self._events.get_nowait())
            except queue.Empty:
                return events

    def kill(self) -> None:
        """End the process now, whatever it does."""
        self._ending.set()
        self.gone = True
        if self._process is not None:
            self._kill()
        if self._folder is not None:  # here too: the application may end before the thread does
            shutil.rmtree(self._folder, ignore_errors=True)
        self._outbox.put(None)

    def _kill(self) -> None:
        """End the process, and what it launched."""
        assert self._process
        if self._own_pid not in (None, self._process.pid) and self._process.poll() is None:
            with contextlib.suppress(OSError):  # its launcher waits for it, so the number is still its own
                os.kill(self._own_pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        self._process.kill()

    def _run(self) -> None:
        """The life of the process: start, send, and what is left to say at its end."""
        try:
            self._folder = shared_folder() if self._files else None
            flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)
            self._process = subprocess.Popen(
                self._command(self._folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(self._environment) if self._environment is not None else None,
                creationflags=flags,
            )
        except PromptSegError as error:
            self._end(str(error))
            return
        except OSError as error:
            self._end(Sentence("The worker cannot be started ({reason}); see Setup.", reason=error.strerror or error))
            return
        if self._ending.is_set():  # killed before there was anything to kill
            self._process.kill()
        assert self._process.stdin and self._process.stdout and self._process.stderr
        channel = Channel(self._process.stdout, self._process.stdin, self._folder)
        threads = [
            threading.Thread(target=self._read, args=(channel,), daemon=True),
            threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True),
        ]
        for thread in threads:
            thread.start()
        self._send(channel)
        code = self._process.wait()
        for thread in threads:
            thread.join(5)
        self._end(self._why(code))

    def _send(self, channel: Channel) -> None:
        assert self._process and self._process.stdin
        try:
            while True:
                item = self._outbox.get()
                if item is None:
                    break
                kind, values, arrays = item
                channel.send(kind, arrays, **values)
        except OSError:  # the reader tells why
            pass
        except Exception as error:  # a message that cannot be sent: the worker ends, and that is told
            self._log.append(f"A message cannot be sent: {error or type(error).__name__}")
        finally:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _read(self, channel: Channel) -> None:
        try:
            while True:
                message = channel.receive()
                if message is None:
                    break
                self._take(message)
        except Exception as error:  # whatever it is: a worker that nobody listens to would never end
            self._log.append(f"The worker's output cannot be read: {error or type(error).__name__}")
            assert self._process
            try:
                self._process.wait(_ENDING)  # it may be ending by itself, with a reason of its own
            except subprocess.TimeoutExpired:
                self._unreadable = True
                self._kill()
        self._outbox.put(None)

    def _take(self, message: Message) -> None:
        if message.kind == "hello":
            self._greeted = True
            number = message.values.get("pid")
            if self.place == "this machine" and type(number) is int and number > 1:
                self._own_pid = number
            if message.values.get("version") != VERSION:
                self._other_version = True
                raise ProtocolError(f"it speaks version {message.values.get('version')}, not {VERSION}")
            return
        if message.kind == "farewell":
            self._farewell = True
            return
        if message.kind == "failed" and message.values.get("memory"):
            self._told_memory = True
        self._events.put(Event(message.kind, message.job, message.values, message.arrays))

    def _listen(self, stream) -> None:
        for line in iter(stream.readline, b""):
            self._log.append(line.decode(errors="replace").rstrip())

    def _why(self, code: int) -> str:
        """One sentence for a worker that ended by itself."""
        if self._ending.is_set() or self._told_memory:
            return ""
        if self._other_version:
            return Sentence(
                "The worker on {place} is of another version of PromptSeg; update PromptSeg on both machines.",
                place=self.place,
            )
        if not self._greeted and self.place != "this machine":
            last = next((line for line in reversed(self._log) if line), f"exit code {code}")
            return Sentence(
                "No worker could be started on {place} ({last}); try ssh {place} in a terminal first.",
                place=self.place,
                last=last,
            )
        if self._unreadable:
            return "The worker's answer could not be read; nothing is lost, click again to start a fresh one."
        if code in (-9, 137) or self._vanished:
            return (
                "The worker was ended from outside, most likely because the machine ran out of memory; "
                "nothing is lost, close other programs or crop the volume and click again."
            )
        if "bad_alloc" in self.log:  # where C++ cannot tell its caller, it aborts
            return (
                "The worker ended because the machine ran out of memory; "
                "nothing is lost, close other programs or crop the volume and click again."
            )
        if not self._greeted and "No module named" in self.log:
            missing = self.log.rsplit("No module named", 1)[1].splitlines()[0].strip(" '\"")
            return Sentence("The worker cannot find {missing}; click Install in Setup.", missing=missing)
        if self.place != "this machine":
            return Sentence(
                "The connection to {place} was lost (exit code {code}); nothing is lost here, click again.",
                place=self.place,
                code=code,
            )
        return Sentence(
            "The worker ended unexpectedly (exit code {code}); nothing is lost, click again to start a fresh one.",
            code=code,
        )

    @property
    def _vanished(self) -> bool:
        """Whether the worker behind a launcher ended without a word.

        A launcher's exit code is its own (PythonSlicer's is 1, whatever signal ended the worker). But a worker says
        farewell when it ends by itself, and a crash leaves its traceback in the log: what says nothing was killed.
        Before the greeting there are only the words of Slicer's launcher.
        """
        if "Fatal Python error" in self.log or self._farewell or self._process is None:
            return False
        return "exit abnormally" in self.log or self._own_pid not in (None, self._process.pid)

    def _end(self, message: str) -> None:
        self.gone = True
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._events.put(Event(GONE, 0, {"message": message}))
