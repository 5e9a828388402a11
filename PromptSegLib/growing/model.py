"""The growing network as a file, and asking it."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..errors import PromptSegError
from ..files import atomic_write
from ..network.precision import autocast
from .network import GrowingNet, multiples, strides

FORMAT = 1
WEIGHTS = Path(__file__).parent / "weights" / "growing.safetensors"
_KEY = "promptseg-growing"


def ask(net: GrowingNet, asked: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Logits float32 (classes, z, y, x) of questions (classes, CHANNELS, z, y, x) on voxels of ``spacing``."""
    steps = strides(spacing)
    shape = asked.shape[2:]
    pads = [(-extent) % each for extent, each in zip(shape, multiples(steps))]
    padded = np.pad(asked, ((0, 0), (0, 0), *((0, pad) for pad in pads)), mode="edge")
    device = next(net.parameters()).device
    logits = np.empty((len(asked), *shape), np.float32)
    for index, each in enumerate(padded):  # one class at a time bounds the memory
        maps = torch.from_numpy(each)[None].to(device).contiguous(memory_format=torch.channels_last_3d)
        with torch.inference_mode(), autocast(device):
            answer = net(maps, steps)[0, 0].float().cpu().numpy()
        logits[index] = answer[: shape[0], : shape[1], : shape[2]]
    return logits


@lru_cache(maxsize=1)
def growing_network() -> GrowingNet:
    """The growing network that comes with PromptSeg, on the CPU, loaded once."""
    return load_growing()


def load_growing(path: Optional[Path] = None, device: Optional[torch.device] = None) -> GrowingNet:
    """The growing network that comes with PromptSeg, or that of a file; frozen.

    Raises :class:`PromptSegError` where the file is none.
    """
    own, path = path is not None, path or WEIGHTS
    try:
        with safe_open(str(path), "pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        if header["format"] != FORMAT:
            raise PromptSegError(
                "The growing network {path} has format {header}; update PromptSeg.",
                path=path,
                header=repr(header["format"]),
            )
        net = GrowingNet()
        net.load_state_dict(tensors)
    except (SafetensorError, OSError, LookupError, ValueError, TypeError, RuntimeError) as error:
        if own:
            raise PromptSegError(
                "{path} is not a growing network, or it is damaged; give a file that train-growing has written.",
                path=path,
            ) from error
        raise PromptSegError(
            "The growing network {path} is missing or damaged; install PromptSeg again.", path=path
        ) from error
    return net.frozen().to(device or torch.device("cpu"))


def save_growing(path: Path, tensors: dict[str, torch.Tensor], card: dict[str, Any]) -> None:
    """Write a growing network in fp16 with its card, replacing ``path`` at once or not at all."""
    half = {name: tensor.detach().cpu().half().contiguous() for name, tensor in tensors.items()}
    with atomic_write(Path(path)) as temporary:
        temporary.write_bytes(save(half, {_KEY: json.dumps({"format": FORMAT, "card": card})}))
