"""What a training process asks of its machine: signals that end it, memory, the loss scaler, the device's name."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from contextlib import contextmanager
from typing import Any, Callable, Iterator

import torch

_ENDING = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes forked meanwhile do not hear what asks the whole group to end: they end with the run."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def new_scaler(device: torch.device, enabled: bool) -> Any:
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device.type, enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled)  # torch < 2.3


def keep_memory() -> bool:
    """Let glibc keep what is freed for the next step, which asks for the same again; whether it does.

    Otherwise every large map is given back to the system, and each of its pages is asked for and cleared anew. For a
    process that does nothing but train: it holds what its largest step took until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # of malloc.h
    try:
        ask = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    kept = True
    for name, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 2**26)):
        kept = bool(ask(name, value)) and kept
    return kept


@contextmanager
def asked_to_end(alone: bool) -> Iterator[Callable[[], bool]]:
    """Whether the process was asked to end (SIGTERM of a cluster, Ctrl+C).

    A second Ctrl+C ends one that is ``alone`` at once; launchers pass on what they and the group were sent already.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before: dict[int, Any] = {}

    def end(number: int, _: Any) -> None:
        asked.set()
        if alone and number == signal.SIGINT:
            signal.signal(number, before[number])

    for each in _ENDING:
        before[each] = signal.signal(each, end)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
