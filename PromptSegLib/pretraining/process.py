"""What a training process asks of its machine: signals that end it, memory, the loss scaler, the device's name."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import Any, Callable, Iterator

import torch
import torch.distributed as distributed

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


class Ranks:
    """The processes that share a run, under ``torchrun`` or any launcher that initialized ``torch.distributed``."""

    def __init__(self) -> None:
        there = distributed.is_initialized()
        self.count = distributed.get_world_size() if there else 1
        self.rank = distributed.get_rank() if there else 0

    def gathered(self, mine: Any) -> list[Any]:
        """What each of several processes gives."""
        everyone: list[Any] = [None] * self.count
        distributed.all_gather_object(everyone, mine)
        return everyone

    def summed(self, mine: list[Any], device: torch.device) -> torch.Tensor:
        """Sums over several processes of numbers (float64, on ``device``)."""
        numbers = torch.tensor(mine, device=device, dtype=torch.float64)
        distributed.all_reduce(numbers)
        return numbers

    def agree(self, spent: float, over: float, device: torch.device) -> tuple[float, bool]:
        """The same time spent and the same decision to stop in every process."""
        if self.count > 1:
            spent, over = (self.summed([spent, over], device) / self.count).tolist()
        return spent, over > 0

    def merged(self, mine: dict[str, str]) -> dict[str, str]:
        """What any of the processes has noted."""
        return {key: why for each in self.gathered(mine) for key, why in each.items()} if self.count > 1 else mine


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
