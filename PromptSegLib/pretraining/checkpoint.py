"""A run's state in one safetensors file: weights now, their average, the optimizer's moments, and where it stands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Mapping

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import PromptSegError
from ..files import atomic_write

MOMENTS = ("exp_avg", "exp_avg_sq")


def save(
    path: Path, now: Mapping[str, Tensor], average: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, state: dict
) -> None:
    """Replace the checkpoint; a full disk leaves the last one as it was (:class:`PromptSegError`)."""
    tensors = {}
    for name, tensor in now.items():
        tensors[f"now.{name}"] = tensor.detach().cpu().contiguous()
        tensors[f"average.{name}"] = average[name].detach().cpu().contiguous()
        for key, value in optimizer.state.get(tensor, {}).items():
            tensors[f"{key}.{name}"] = torch.as_tensor(value).cpu().contiguous()
    with atomic_write(path) as temporary:
        try:
            save_file(tensors, str(temporary), {"state": json.dumps(state)})
        except SafetensorError as error:
            raise PromptSegError(
                "Cannot write {path}: {error}; free space on the disk and start again, the last checkpoint is whole.",
                path=path,
                error=error,
            ) from error


def restore(
    path: Path, now: Mapping[str, Tensor], average: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Put a checkpoint back into the tensors of a run; returns its state.

    :raises PromptSegError: it is not a checkpoint, or one of another network or of other classes.
    """
    names, state = _read_header(path)
    try:
        with safe_open(str(path), "pt") as file, torch.no_grad():
            for name, tensor in now.items():
                tensor.copy_(file.get_tensor(f"now.{name}"))
                average[name].copy_(file.get_tensor(f"average.{name}"))
                if f"step.{name}" in names:
                    # The fused optimizer walks raw memory: the moments must be laid out as the parameter is.
                    moments = {key: torch.empty_like(tensor).copy_(file.get_tensor(f"{key}.{name}")) for key in MOMENTS}
                    steps = file.get_tensor(f"step.{name}")
                    optimizer.state[tensor] = {"step": steps.to(tensor.device), **moments}
    except (SafetensorError, RuntimeError) as error:
        raise PromptSegError(
            "{path} belongs to another network or to other classes; give another output folder.", path=path
        ) from error
    return state


def read_state(path: Path) -> dict[str, Any]:
    """The state of a checkpoint without its tensors; raises :class:`PromptSegError` where it is none."""
    return _read_header(path)[1]


def averages(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The averaged weights of a checkpoint, by the names of the learner, and its state."""
    names, state = _read_header(path)
    prefix = "average."
    with safe_open(str(path), "pt") as file:
        return {name[len(prefix) :]: file.get_tensor(name) for name in names if name.startswith(prefix)}, state


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a run's checkpoint."""
    try:
        _read_header(path)
    except PromptSegError:
        return False
    return True


def _read_header(path: Path) -> tuple[set[str], dict[str, Any]]:
    try:
        with safe_open(str(path), "pt") as file:
            names, state = set(file.keys()), json.loads(file.metadata()["state"])
        if any(key not in state for key in ("classes", "step", "seconds")):
            raise ValueError("a state of something else")
        return names, dict(state)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise PromptSegError("{path} is not a checkpoint of a pretraining run, or it is damaged.", path=path) from error


def check_room(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise :class:`PromptSegError` where the disk has no room for two checkpoints (the old one and the new)."""
    needed = 2 * 4 * sum(4 * tensor.numel() for tensor in tensors.values())
    free = shutil.disk_usage(path.parent).free
    if free + (path.stat().st_size if path.exists() else 0) < needed:
        raise PromptSegError(
            "The disk of {parent} has {free:.0f} MiB free, and a run needs {needed:.0f} MiB for its "
            "checkpoints; free space or choose another output folder.",
            parent=path.parent,
            free=free / 2**20,
            needed=needed / 2**20,
        )
