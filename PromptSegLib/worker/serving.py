"""The worker's side: take messages, do jobs one after the other, answer."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import platform
import queue
import shutil
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, Mapping, NoReturn, Optional, Protocol

import numpy as np

from ..errors import PromptSegError, is_out_of_memory
from ..progress import Cancelled, ProgressHandle, Report
from .jobs import JobHandlers, threads_wanted
from .messages import VERSION, Channel, Message

_BREATH = 0.3  # seconds without computing after a preview: drawing it takes all cores of a small machine for a moment
_NICE = 15  # far below the application: its window, and the threads that draw it, come first
OUT_OF_MEMORY = (
    "The memory of this machine is not enough for this volume; close other programs, crop the volume (Crop Volume), "
    "or tune fewer segments at once."
)


def serve_standard_streams(folder: Optional[Path] = None) -> None:
    """Serve on standard input and output until the input ends. Whatever prints, prints to standard error."""
    writer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    if hasattr(os, "nice"):
        os.nice(_NICE)
    faulthandler.enable(sys.stderr)  # a crash says so, also where a launcher hides the signal
    channel = Channel(sys.stdin.buffer, writer, folder)
    try:
        serve(channel, folder)
    except BaseException as error:  # a library that wants to exit, too
        print(traceback.format_exc(), file=sys.stderr, flush=True)
        _say_farewell(channel)
        # Not by raising: at its end, Python would wait for the thread that reads, and abort.
        os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1)


def serve(channel: Channel, folder: Optional[Path] = None) -> None:
    """Serve one channel. Ends the process when the input ends, whatever is running: nobody waits for it any more.

    :param folder: the folder of the arrays, removed then: the application may have ended without doing so.
    """
    channel.send("hello", version=VERSION, python=platform.python_version(), pid=os.getpid())
    waiting: queue.Queue[Message] = queue.Queue()
    cancelled: set[int] = set()

    def read() -> None:
        try:
            while True:
                message = channel.receive()
                if message is None:
                    _leave(folder)
                if message.kind == "cancel":
                    cancelled.add(message.job)
                else:
                    waiting.put(message)
        except Exception as error:  # whatever it is: a worker that no longer listens would never end
            print(f"The worker ends: {error or type(error).__name__}", file=sys.stderr, flush=True)
            _say_farewell(channel)
            os._exit(3)

    threading.Thread(target=read, daemon=True).start()
    jobs = JobHandlers()
    while True:
        message = waiting.get()
        try:
            if message.kind == "image":
                jobs.add_image(message)
            elif message.kind == "job":
                if do(jobs, message, channel, cancelled):
                    _say_farewell(channel)
                    os._exit(4)
            else:
                print(f"The worker ignores a message of kind {message.kind!r}", file=sys.stderr, flush=True)
        except OSError:  # nobody listens any more
            _leave(folder)


def _say_farewell(channel: Channel) -> None:
    """Tell that this process ends by itself."""
    with contextlib.suppress(OSError, ValueError):
        channel.send("farewell")


def _leave(folder: Optional[Path]) -> NoReturn:
    """End at once, with the folder that nobody reads any more."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


class Speaker(Protocol):
    """The end of a channel that a job needs."""

    def send(self, kind: str, arrays: Optional[Mapping[str, np.ndarray]] = None, **values: Any) -> None: ...


def do(jobs: JobHandlers, message: Message, channel: Speaker, cancelled: set[int]) -> bool:
    """Do a job and say how it went; whether memory ran out, so that a process had better end."""
    number = message.job

    def report(each: Report) -> None:
        channel.send("report", job=number, stage=each.stage, share=each.share, figures=dict(each.figures))

    def preview(values: dict[str, Any], arrays: dict) -> None:
        channel.send("preview", arrays, job=number, **values)
        time.sleep(_BREATH)

    try:
        if "torch" not in sys.modules:
            _import_torch()
        job = ProgressHandle(report, lambda: number in cancelled)
        job.check()
        values, arrays = jobs.run(message, job, preview)
        channel.send("done", arrays, job=number, **values)
    except Cancelled:
        channel.send("cancelled", job=number)
    except PromptSegError as error:
        channel.send("refused", job=number, **error.message.to_dict())
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        channel.send("refused", job=number, message=f"{missing} is not installed; click Install in Setup.")
    except ImportError as error:
        print(traceback.format_exc(), file=sys.stderr, flush=True)
        broken = error.name or "a package"
        channel.send("refused", job=number, message=f"{broken} is installed but broken; install it again in Setup.")
    except Exception as error:
        memory, details = is_out_of_memory(error), traceback.format_exc()
        print(details, file=sys.stderr, flush=True)
        sentence = OUT_OF_MEMORY if memory else f"The worker could not finish ({type(error).__name__}: {error})."
        channel.send("failed", job=number, message=sentence, details=details, memory=memory)
        return memory
    finally:
        cancelled.discard(number)
    return False


def _import_torch() -> None:
    import torch

    torch.set_num_threads(threads_wanted())
