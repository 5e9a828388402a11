"""A run's curves, for TensorBoard where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Mapping


class Curves:
    """Scalars over steps. Without the package ``tensorboard`` they are not written, and ``log`` is told so once."""

    def __init__(self, folder: Path, step: int, log: Callable[[str], None]):
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            log("TensorBoard is not installed, so no curves are written (pip install tensorboard).")
            return
        # What an earlier process wrote beyond the checkpoint is taken back: those steps are done again.
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
